"""Learning from captions that the model draws itself: self-critical training.

Likelihood makes a model imitate each caption word by word; it is judged by how whole captions
match what people say. Rennie et al. (CVPR 2017) draw captions from the model and make those
likelier that score better than expected; here, after Luo (2020), the expectation is the mean of
the other captions drawn for the photo. BLIP-2 itself has no such step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blip2.decoding import Decoding
from train.tokenise import PlainTokeniser

if TYPE_CHECKING:
    from blip2.representation import Drawn, Representation
    from blip2.tokenization import TextTokenizer
    from blip2.visual_prompt import Stage2

SIGMA = 6.0  # words by which lengths may differ
LONGEST = 4  # words of an n-gram
END = "</s>"  # counts as a word, so that a caption which breaks off scores less

# Of captions drawn at 1 nearly all are poor while a model is young, so that there is little to
# learn from: mini's scored 0.11, where its beams score 0.4.
TEMPERATURE = 0.6
MOST_TOKENS = 20  # of a caption that is drawn

Gram = tuple[str, ...]


class CiderReward:
    """CIDEr-D of one caption (Vedantam et al., CVPR 2015), by the n-grams of training captions.

    Parameters
    ----------
    references : sequence of sequence of str
        Captions of every photo; an n-gram weighs the more, the fewer photos have it.
    end : str
        Counts as the last word of every caption; "" as in the evaluation.
    """

    def __init__(self, references: Sequence[Sequence[str]], end: str = END) -> None:
        self.tokeniser, self.end = PlainTokeniser(), end
        self.photos: Counter[Gram] = Counter()
        for captions in references:
            grams = {gram for words in self._words(captions) for gram in _grams(words)}
            self.photos.update(grams)
        self.count = len(references)

    def __call__(self, captions: Sequence[str], references: Sequence[str]) -> list[float]:
        """Score captions of one photo, from 0 to 10."""
        truth = [self._vector(words) for words in self._words(references)]
        drawn = [self._vector(words) for words in self._words(captions)]
        return [
            10 * sum(_similar(vector, other) for other in truth) / len(truth) for vector in drawn
        ]

    def unit_weights(self, captions: Sequence[str]) -> list[tuple[int, dict[Gram, float]]]:
        """Of each caption its length in words and the weights of its n-grams.

        They are scaled so that the sum of products over what two captions share is the mean of
        their cosines over the lengths of n-grams: CIDEr-D, but for its clipping and the length.
        """
        found = []
        for length, weights, norms in map(self._vector, self._words(captions)):
            scaled = {
                gram: value / (norm * LONGEST**0.5)
                for each, norm in zip(weights, norms, strict=True)
                if norm
                for gram, value in each.items()
            }
            found.append((length, scaled))
        return found

    def _words(self, captions: Sequence[str]) -> list[list[str]]:
        ends = [self.end] if self.end else []
        return [text.split() + ends for text in self.tokeniser(captions)]

    def _vector(self, words: list[str]) -> tuple[int, list[dict[Gram, float]], list[float]]:
        """Length, and for each length of n-grams their weights and the norm of these."""
        weights: list[dict[Gram, float]] = [{} for _ in range(LONGEST)]
        for gram, times in Counter(_grams(words)).items():
            rare = math.log(self.count) - math.log(max(1, self.photos[gram]))
            weights[len(gram) - 1][gram] = times * rare
        norms = [math.sqrt(sum(value * value for value in each.values())) for each in weights]
        return max(0, len(words) - 1), weights, norms


def _grams(words: list[str]) -> list[Gram]:
    return [
        tuple(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    ]


def _similar(one, other) -> float:
    """CIDEr-D between two vectors: clipped cosines, less the more the lengths differ."""
    length, weights, norms = one
    other_length, other_weights, other_norms = other
    total = 0.0
    for mine, theirs, a, b in zip(weights, other_weights, norms, other_norms, strict=True):
        if a and b:
            total += sum(
                min(value, theirs[gram]) * theirs[gram]
                for gram, value in mine.items()
                if gram in theirs
            ) / (a * b)
    return total / LONGEST * math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))


class DrawnCaptions:
    """Draws captions from stage 1 (ITG) and says what each is worth.

    Parameters
    ----------
    tokenizer : TextTokenizer
        Of the model.
    reward : CiderReward
        Scores captions.
    samples : int
        Captions of one photo, at least 2.

    Attributes
    ----------
    scores : list of float
        Mean scores of batches since they were last told.
    """

    def __init__(self, tokenizer: TextTokenizer, reward: CiderReward, samples: int) -> None:
        from blip2.grounded import Sentences

        self.words, self.ends = Sentences(tokenizer), tokenizer.sep_token_id
        self.reward, self.samples = reward, samples
        self.scores: list[float] = []

    @torch.no_grad()
    def __call__(
        self, model: Representation, features: Tensor, references: Sequence[Sequence[str]]
    ) -> Drawn:
        """Draw captions of photos ``[B, N, C]``; of each stands in ``references`` what people say.

        More references than photos are allowed.
        """
        from blip2.representation import Drawn

        training = model.training
        model.eval()
        cache = model.qformer.encode_image(model.image_states(features)).cache
        ids, mask = model.draw(cache, self.samples, TEMPERATURE, self.ends, MOST_TOKENS)
        model.train(training)
        said = self.words.batch_decode(ids)
        groups = [said[at : at + self.samples] for at in range(0, len(said), self.samples)]
        worth, score = _worth(self.reward, groups, references)
        self.scores.append(score)
        return Drawn(ids, mask, worth.to(ids.device), self.samples)


def _worth(
    reward: CiderReward, drawn: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> tuple[Tensor, float]:
    """How much more each caption scores than the others of its photo on average; the mean score."""
    scores = torch.tensor(
        [reward(own, truth) for own, truth in zip(drawn, references, strict=False)]
    )  # [B, K]
    others = (scores.sum(1, keepdim=True) - scores) / (scores.shape[1] - 1)
    return (scores - others).flatten(), float(scores.mean())


class SelfCritical:
    """Draws captions from a model and says what each is worth.

    Parameters
    ----------
    model : Stage2
        The model as it is being trained.
    reward : CiderReward
        Scores captions.
    samples : int
        Captions of one photo, at least 2.
    """

    def __init__(self, model: Stage2, reward: CiderReward, samples: int) -> None:
        self.model, self.reward = model, reward
        decoding = {"temperature": TEMPERATURE, "top_p": 1.0, "max_new_tokens": MOST_TOKENS}
        self.decoding = Decoding(do_sample=True, **decoding)
        self.samples = samples

    @torch.no_grad()
    def __call__(
        self, features: Tensor, asked: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], Tensor, float]:
        """Draw captions of photos.

        Parameters
        ----------
        features : Tensor
            ``[B, N, C]``
        asked : sequence of str
            ``B`` instructions.
        references : sequence of sequence of str
            What people say of each.

        Returns
        -------
        list of list of str
            ``samples`` captions of each photo.
        Tensor
            ``[B * samples]``: how much more each scores than the others of its photo on average.
        float
            The mean score.
        """
        prompt, language = self.model.prompt, self.model.language
        training = prompt.training
        prompt.eval()
        visual = prompt(features)
        prompt.train(training)
        texts = [language.prompt(text) for text in asked]
        drawn = language.samples(visual, texts, self.decoding, self.samples)
        return drawn, *_worth(self.reward, drawn, references)
