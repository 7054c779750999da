"""The three objectives of stage 1 (paper, section 3.2) as functions of tensors, and a fourth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Similarity of every photo to every text: the best of its queries (section 3.2, ITC).

    Parameters
    ----------
    image_embeds : Tensor
        ``[I, Q, d]``, unit length.
    text_embeds : Tensor
        ``[T, d]``, unit length.

    Returns
    -------
    Tensor
        ``[I, T]``, cosines.
    """
    # Autocast would round the cosines to bf16, in steps as large as what separates two photos.
    with torch.autocast(image_embeds.device.type, enabled=False):
        return torch.einsum("iqd,td->itq", image_embeds, text_embeds).amax(-1)


def itc_targets(image_ids: Tensor, texts: int = 1) -> Tensor:
    """Which text belongs to which photo: equal ids share their pairs evenly.

    Parameters
    ----------
    image_ids : Tensor
        ``[B]`` integers, one for each photo of the batch.
    texts : int
        Texts of each photo, which stand side by side.

    Returns
    -------
    Tensor
        ``[B, B * texts]``, rows sum to 1.
    """
    same = (image_ids[:, None] == image_ids.repeat_interleave(texts)[None, :]).float()
    return same / same.sum(1, keepdim=True)


def itc_loss(
    sim: Tensor, temperature: Tensor, image_ids: Tensor, label_smoothing: float = 0.1
) -> Tensor:
    """Image-text contrastive loss: cross-entropy both ways over in-batch negatives.

    Parameters
    ----------
    sim : Tensor
        ``[B, T]``, photos by texts, from :func:`similarity`; the texts of each photo, equally many,
        stand side by side.
    temperature : Tensor
        Scalar divisor, learned.
    image_ids : Tensor
        ``[B]``; several captions of one photo share the target.
    label_smoothing : float
        Share of the target that is spread over the whole batch.

    Returns
    -------
    Tensor
        Scalar.
    """
    logits = sim / temperature
    texts = sim.shape[1] // sim.shape[0]
    of_photos = itc_targets(image_ids, texts)
    of_texts = itc_targets(image_ids).repeat_interleave(texts, 0)
    image_to_text = F.cross_entropy(logits, of_photos, label_smoothing=label_smoothing)
    text_to_image = F.cross_entropy(logits.T, of_texts, label_smoothing=label_smoothing)
    return (image_to_text + text_to_image) / 2


@dataclass
class JointBatch:
    """Embeddings of a batch that is computed in parts, without gradient.

    Attributes
    ----------
    image_embeds, text_embeds : Tensor
        ``[N, Q, d]`` and ``[N, d]``, or several texts of each photo side by side.
    image_ids : Tensor
        ``[N]``
    start : int
        Where the part's photos stand.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    image_ids: Tensor
    start: int


def joint_itc_loss(
    image_embeds: Tensor, text_embeds: Tensor, temperature: Tensor, joint: JointBatch
) -> Tensor:
    """ITC of a part of a batch against all of it: every other pair is a negative.

    Computes the loss of the whole batch with gradient to the part's own embeddings. Summed over
    the ``P`` parts, gradients are those of :func:`itc_loss` over the whole batch, and so are
    values: each is the whole's divided by ``P``.

    Parameters
    ----------
    image_embeds, text_embeds : Tensor
        ``[B, Q, d]`` and ``[B, d]`` of the part, ``B = N / P``.
    temperature : Tensor
        As in :func:`itc_loss`.
    joint : JointBatch
        The whole batch; what it holds of the part is not used.

    Returns
    -------
    Tensor
        Scalar.
    """
    each = len(text_embeds) // len(image_embeds)
    images, texts = (
        torch.cat([every[:start], own, every[start + len(own) :]])
        for every, own, start in (
            (joint.image_embeds, image_embeds, joint.start),
            (joint.text_embeds, text_embeds, joint.start * each),
        )
    )
    parts = len(joint.image_ids) / len(image_embeds)
    # Each part differentiates the whole loss with respect to it, so each takes its share.
    shared = temperature.detach() + (temperature - temperature.detach()) / parts
    whole = itc_loss(similarity(images, texts), shared, joint.image_ids)
    return whole - whole.detach() * (1 - 1 / parts)


@torch.no_grad()
def hard_negatives(
    sim: Tensor, temperature: Tensor, image_ids: Tensor, hardness: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw one hard negative each way, in proportion to softmax(similarity / temperature).

    Parameters
    ----------
    sim, temperature, image_ids : Tensor
        As in :func:`itc_loss`. Pairs of equal ids are never drawn.
    hardness : float
        Factor on the logits: 1 as in the paper, 0 draws uniformly.

    Returns
    -------
    images : Tensor
        ``[B]``, for each text the position of a wrong photo.
    texts : Tensor
        ``[B]``, for each photo the position of a wrong text.

    Raises
    ------
    ValueError
        The batch holds one photo only, so that there is no negative.
    """
    same = image_ids[:, None] == image_ids[None, :]
    if bool(same.all(1).any()):
        raise ValueError("a batch for ITM needs pairs of at least two different photos")
    logits = (hardness * sim / temperature).float().masked_fill(same, float("-inf"))
    images = torch.multinomial(logits.T.softmax(1), 1).flatten()
    texts = torch.multinomial(logits.softmax(1), 1).flatten()
    return images, texts


def itm_loss(logits: Tensor, matched: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Image-text matching loss: two-way cross-entropy.

    Parameters
    ----------
    logits : Tensor
        ``[M, 2]``, the head's output averaged over the queries; column 1 means "match".
    matched : Tensor
        ``[M]``, 1 for pairs that belong together and 0 for the others.
    label_smoothing : float
        Share of the target that is spread over both; 0 as in the paper.
    """
    return F.cross_entropy(logits.float(), matched, label_smoothing=label_smoothing)


def itg_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """Image-grounded text generation loss over positions that predict a word piece.

    Parameters
    ----------
    logits : Tensor
        ``[P, V]``, one row for each position whose next piece is no padding.
    targets : Tensor
        ``[P]``, that next piece.
    label_smoothing : float
        Share of the target that is spread over the vocabulary.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def diversity_loss(queries: Tensor, epsilon: float = 0.01) -> Tensor:
    """Repulsion between the queries of a photo: the volume that what they say of it spans.

    Neither the maximum over queries in ITC nor the mean over them in ITM keeps queries apart, and
    all of them may end up as one. What each query says of a photo is its state less its mean over
    the batch; the loss is minus the log-determinant of the cosines between those, for each query.
    It is 0 for uncorrelated queries, and its gradient does not vanish where they are nearly equal.

    Parameters
    ----------
    queries : Tensor
        ``[B, Q, D]``, of at least two photos.
    epsilon : float
        Added to the diagonal; bounds the loss.

    Returns
    -------
    Tensor
        Scalar.
    """
    with torch.autocast(queries.device.type, enabled=False):
        states = queries.float()
        said = F.normalize(states - states.mean(0), dim=-1)  # [B, Q, D]
        unit = torch.eye(said.shape[1], device=said.device)
        volume = torch.logdet(said @ said.transpose(1, 2) + epsilon * unit)  # [B]
        return -volume.mean() / said.shape[1]
