"""How the events of the page run: those that the model answers, and those that go past it."""

from typing import Any

# Every event that runs a model takes these. Gradio gives each event a queue of its own otherwise,
# and caption, chat and search would run side by side and take the memory of three.
MODEL_QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
# What visitors send to the model is looked at by `demo.uploads`, so it comes raw.
RUNS_MODEL: dict[str, Any] = {
    "preprocess": False,
    "show_progress": "minimal",
    "trigger_mode": "once",
    **MODEL_QUEUE,
}
# Events of the page itself: at once, also while the model is busy, and nothing for programs.
QUIET: dict[str, Any] = {
    "queue": False,
    "show_progress": "hidden",
    "api_visibility": "private",
}
