"""The joint score of similarity and matching."""

import numpy as np
import pytest

from blip2.retrieval import joint_score


def test_joint_score_recovers_what_matching_learned_beside_the_similarity():
    """An ideal classifier against negatives drawn by similarity, and the truth behind it."""
    rng = np.random.default_rng(0)
    similarity, truth = rng.uniform(-1, 1, 50), rng.dirichlet(np.ones(50))
    temperature = 0.5
    drawn = np.exp(similarity / temperature) / np.exp(similarity / temperature).sum()
    match = truth / (truth + 2 * drawn)
    score = joint_score(similarity, match, temperature)
    assert np.argsort(score).tolist() == np.argsort(truth).tolist()
    assert np.argsort(match).tolist() != np.argsort(truth).tolist()
    differences = score - np.log(truth)
    assert differences == pytest.approx(np.full(50, differences[0]), abs=1e-6)


def test_joint_score_stays_finite_and_orders_by_similarity_where_matching_is_sure():
    score = joint_score(np.array([0.2, 0.3, 0.3]), np.array([1.0, 1.0, 0.0]), 0.1)
    assert np.isfinite(score).all() and score[1] > score[0] > score[2]
