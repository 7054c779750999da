"""The errors that users meet."""


class UserError(Exception):
    """Something the user can put right: one sentence saying what, where and what to do.

    Commands print it as `error: <sentence>` and exit with status 2; the demo shows it in the page.
    Any other exception is a fault of this project and keeps its traceback.
    """


class AssetError(UserError):
    """A frozen part of mini that cannot be had, and how to bring it."""


class PhotoError(UserError):
    """A photo that cannot be used, and why."""
