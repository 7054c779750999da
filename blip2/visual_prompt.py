"""Stage 2 (paper, section 3.3): the Q-Former's queries as a soft visual prompt, for training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from blip2.config import Blip2Config
from blip2.language import FrozenLanguageModel, Told
from blip2.objectives import diversity_loss
from blip2.qformer import QFormer
from blip2.representation import ImageReader

Pieces = tuple[Tensor, Tensor]  # word pieces and their mask, [B, T]


class VisualPrompt(nn.Module):
    """What stage 2 trains: the Q-Former without its text branch, and one linear projection.

    Parameters
    ----------
    config : Blip2Config
        With ``stage`` 2; with ``reads_question``, the Q-Former keeps its text branch.
    """

    def __init__(self, config: Blip2Config) -> None:
        super().__init__()
        self.config = config
        self.image_reader = ImageReader(config)
        self.qformer = QFormer(config.qformer, with_text=config.reads_question)
        self.projection = nn.Linear(config.qformer.hidden_size, config.language_width)

    def forward(self, features: Tensor, pieces: Pieces | None = None) -> Tensor:
        """Soft visual prompts ``[B, Q, W]``; parameters as in :meth:`queries`."""
        return self.projection(self.queries(features, pieces))

    def queries(
        self, features: Tensor, pieces: Pieces | None = None, kept: Tensor | None = None
    ) -> Tensor:
        """What the queries read from a photo, with a question in mind.

        Parameters
        ----------
        features : Tensor
            ``[B, N, C]`` image features.
        pieces : tuple of Tensor, optional
            Word pieces of the questions and where they are no padding, ``[B, T]`` both (section
            4.3). Each query sees them in self-attention and so knows what to look for.
        kept : Tensor, optional
            ``[B, K]``, which of the ``N`` features to read; default all.

        Returns
        -------
        Tensor
            ``[B, Q, D]``
        """
        states = self.qformer.image_states(self.image_reader(features, kept))
        if pieces is None:
            return self.qformer.encode_image(states).queries
        return self.qformer(states, *pieces, "bidirectional").queries


class Stage2(nn.Module):
    """Visual prompt before a frozen language model, for training.

    Parameters
    ----------
    prompt : VisualPrompt
        Trained.
    language : FrozenLanguageModel
        Frozen.
    diversity : float
        Weight of :func:`blip2.objectives.diversity_loss`.
    """

    def __init__(
        self, prompt: VisualPrompt, language: FrozenLanguageModel, diversity: float = 0.0
    ) -> None:
        super().__init__()
        self.prompt, self.language = prompt, language
        self.diversity = diversity

    def forward(
        self,
        features: Tensor,
        told: Told,
        pieces: Pieces | None = None,
        kept: Tensor | None = None,
        drawn: Told | None = None,
        worth: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Parameters
        ----------
        features : Tensor
            ``[B, N, C]`` image features.
        told : sequence of sequence of turns
            What people say of each photo, see :meth:`FrozenLanguageModel.log_likelihoods`.
        pieces, kept
            See :meth:`VisualPrompt.queries`.
        drawn : sequence of sequence of turns, optional
            What the model itself says of each photo.
        worth : Tensor, optional
            ``[M]``, how much better than expected each text of ``drawn`` is.

        Returns
        -------
        dict of Tensor
            ``lm``, the language-modelling loss, the mean over the tokens of ``told``;
            ``diversity``, where it has a weight; ``reward``, where texts were drawn: its gradient
            makes those of high worth likelier (Williams, 1992).
        """
        queries = self.prompt.queries(features, pieces, kept)
        every = [[*of, *own] for of, own in zip(told, drawn, strict=True)] if drawn else told
        likely = self.language.log_likelihoods(self.prompt.projection(queries), every)  # [M]
        ours = [number >= len(of) for of, texts in zip(told, every, strict=True)
                for number in range(len(texts))]  # fmt: skip
        ours = torch.tensor(ours, device=likely.device)
        losses = {"lm": -likely[~ours].sum() / max(1, self.language.told_length(told))}
        if drawn:
            length = self.language.told_length(drawn)
            losses["reward"] = -(worth.to(likely.device) * likely[ours]).sum() / length
        if self.diversity:
            losses["diversity"] = self.diversity * diversity_loss(queries)
        return losses
