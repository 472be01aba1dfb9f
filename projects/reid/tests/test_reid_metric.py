"""The metric against the protocol written out image by image."""

import json
import os
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mmengine.evaluator import Evaluator
from torch import multiprocessing

from projects.reid.reid.metric import ReIDMetric
from projects.reid.reid.reranking import reranked_blocks
from projects.reid.reid.retrieval import Labels, distance_blocks, rank_gallery, sort_keys


def brute_force(distances, query, gallery, same_camera=False):
    """AP and rank of the first match of every query that has one, by a stable sort."""
    aps, firsts = [], []
    for row, id_, camera in zip(distances, *query):
        order = np.argsort(row, kind='stable')
        hits, seen, precisions, first = 0, 0, [], 0
        for g in order:
            if gallery[0][g] == id_ and gallery[1][g] == camera and not same_camera:
                continue
            seen += 1
            if gallery[0][g] == id_:
                hits += 1
                precisions.append(hits / seen)
                first = first or seen
        aps.append(np.mean(precisions) if precisions else np.nan)
        firsts.append(first)
    return np.array(aps), np.array(firsts)


@st.composite
def problems(draw):
    """Whole-number features (exact distances, many ties), unbalanced ids and cameras."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, images = draw(st.integers(1, 9)), draw(st.integers(1, 40))
    people, cameras = draw(st.sampled_from([1, 2, 7])), draw(st.sampled_from([1, 2, 5]))
    levels, channels = draw(st.sampled_from([1, 2, 50])), draw(st.integers(1, 4))
    skew = draw(st.sampled_from([0.0, 1.0, 3.0]))  # most images of one camera

    def draw_set(size):
        weights = np.arange(1, cameras + 1.0) ** -skew
        return (
            rng.integers(-levels, levels + 1, (size, channels)).astype(np.float32),
            rng.integers(0, people, size),
            rng.choice(cameras, size, p=weights / weights.sum()),
        )

    return draw_set(queries), draw_set(images)


def labels(ids, cameras):
    return Labels(torch.from_numpy(ids), torch.from_numpy(cameras))


@settings(max_examples=300, deadline=None)
@given(problems(), st.sampled_from([1, 2, 256]), st.booleans())
def test_rankings_are_those_of_the_definition(problem, block, same_camera):
    (query, *query_labels), (gallery, *gallery_labels) = problem
    squared = ((query[:, None].astype(np.float64) - gallery[None]) ** 2).sum(-1)
    aps, firsts = brute_force(squared, query_labels, gallery_labels, same_camera)
    blocks = distance_blocks(torch.from_numpy(query), torch.from_numpy(gallery), block)
    found = rank_gallery(blocks, labels(*query_labels), labels(*gallery_labels), same_camera)
    np.testing.assert_allclose(found.average_precision.numpy(), aps, rtol=1e-13)
    assert found.first_match.tolist() == firsts.tolist()


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(1, 12))
def test_the_top_of_the_ranking_is_a_stable_sort_of_what_is_allowed(problem, top):
    (query, *query_labels), (gallery, *gallery_labels) = problem
    found = rank_gallery(
        distance_blocks(torch.from_numpy(query), torch.from_numpy(gallery), 4),
        labels(*query_labels),
        labels(*gallery_labels),
        top_of=[0, len(query) - 1],
        top=top,
    ).top
    assert set(found) == {0, len(query) - 1}
    for i, (places, distances) in found.items():
        squared = ((query[i].astype(np.float64) - gallery) ** 2).sum(-1)
        junk = (gallery_labels[0] == query_labels[0][i]) & (gallery_labels[1] == query_labels[1][i])
        expected = [g for g in np.argsort(squared, kind='stable') if not junk[g]][:top]
        assert places.tolist() == expected
        constant = np.square(query[i].astype(np.float64)).sum()
        np.testing.assert_array_equal(2 * distances.numpy() + constant, squared[expected])


@example([0.0, -0.0, 0.0, -1.0])
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_keys_order_as_a_stable_sort(values):
    keys = sort_keys(torch.tensor(values), torch.arange(len(values)))
    assert keys.argsort().tolist() == np.argsort(np.float32(values), kind='stable').tolist()


def samples(problem):
    (query, *query_labels), (gallery, *gallery_labels) = problem
    out = []
    for role, features, ids, cameras in (
        (True, query, *query_labels),
        (False, gallery, *gallery_labels),
    ):
        for i, (feature, id_, camera) in enumerate(zip(features, ids, cameras)):
            sample = dict(gt_label=torch.tensor([id_]), camera=int(camera), is_query=role)
            sample.update(pred_feature=torch.from_numpy(feature), img_path=f'{role}_{i}.jpg')
            out.append(sample)
    return out


def random_problem(seed=0, queries=23, images=150, people=6, cameras=3):
    rng = np.random.default_rng(seed)
    return tuple(
        (
            rng.normal(size=(n, 8)).astype(np.float32),
            rng.integers(0, people, n),
            rng.integers(0, cameras, n),
        )
        for n in (queries, images)
    )


def evaluate(problem, **options):
    metric = ReIDMetric(**options)
    evaluator = Evaluator(metric)
    data = samples(problem)
    for start in range(0, len(data), 7):
        evaluator.process(data[start : start + 7])
    return evaluator.evaluate(len(data)), metric


def test_the_metric_averages_over_the_queries_that_count(tmp_path):
    problem = random_problem()
    problem[0][1][:3] = 99  # nobody in the gallery
    metrics, metric = evaluate(problem, per_query=str(tmp_path / 'ap.json'))
    unit = [f / np.linalg.norm(f.astype(np.float64), axis=1, keepdims=True) for f, *_ in problem]
    aps, firsts = brute_force(2 - 2 * unit[0] @ unit[1].T, problem[0][1:], problem[1][1:])
    assert metrics['reid/queries'] == 20 == (firsts > 0).sum()
    assert metrics['reid/mAP'] == pytest.approx(100 * np.nanmean(aps), rel=1e-12)
    for k in (1, 5, 10):
        assert metrics[f'reid/R{k}'] == pytest.approx(100 * (firsts[firsts > 0] <= k).mean())
    entries = json.loads((tmp_path / 'ap.json').read_text())
    assert [e['average_precision'] for e in entries[:3]] == [None] * 3
    assert [e['average_precision'] for e in entries[3:]] == pytest.approx(aps[3:].tolist())
    assert entries[5]['img_path'] == 'True_5.jpg' and len(metric.queries) == 23


def test_two_processes_find_what_one_finds(tmp_path):
    expected, _ = evaluate(random_problem())
    multiprocessing.spawn(partial(_evaluate_part, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == expected


def _evaluate_part(folder, rank):
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    evaluator = Evaluator(ReIDMetric())
    data = samples(random_problem())
    # As DefaultSampler deals and pads: the odd one out is seen twice.
    assert len(data) % 2 == 1
    evaluator.process([*data, data[0]][rank::2])
    metrics = evaluator.evaluate(len(data))
    with open(f'{folder}/{rank}.json', 'w') as file:
        json.dump(metrics, file)
    torch.distributed.barrier()
    # And not destroy_process_group: in torch 2.1 its destructor can wait, with the interpreter's
    # lock, for a thread that waits for the lock.
    os._exit(0)


def dense_reranking(query, gallery, k1, k2, lambda_):
    """Zhong et al. 2017, with sets and dense vectors."""
    images = np.concatenate([query, gallery]).astype(np.float64)
    n = len(images)
    squared = ((images[:, None] - images[None]) ** 2).sum(-1)
    d = squared / squared.max(1, keepdims=True)
    rank = np.argsort(d - np.eye(n), axis=1)

    def reciprocal(p, k):
        return {g for g in rank[p, : k + 1] if p in rank[g, : k + 1]}

    vectors = np.zeros((n, n))
    for p in range(n):
        base = reciprocal(p, k1)
        expanded = set(base)
        for q in base:
            other = reciprocal(q, int(np.around(k1 / 2)))
            if len(other & base) > 2 / 3 * len(other):
                expanded |= other
        for g in expanded:
            vectors[p, g] = np.exp(-d[p, g])
        vectors[p] /= vectors[p].sum()
    vectors = np.stack([vectors[rank[p, :k2]].mean(0) for p in range(n)])
    a, b = vectors[: len(query), None], vectors[None, len(query) :]
    jaccard = 1 - np.minimum(a, b).sum(-1) / np.maximum(a, b).sum(-1)
    return lambda_ * d[: len(query), len(query) :] + (1 - lambda_) * jaccard


@pytest.mark.parametrize('k1, k2, lambda_', [(20, 6, 0.3), (5, 1, 0.0), (4, 3, 0.8)])
def test_reranked_distances_are_those_of_the_definition(k1, k2, lambda_):
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(8, 6))
    query, gallery = (
        (centres[rng.integers(0, 8, n)] + 0.6 * rng.normal(size=(n, 6))).astype(np.float32)
        for n in (11, 70)
    )
    found = torch.cat(
        list(
            reranked_blocks(
                torch.from_numpy(query), torch.from_numpy(gallery), k1, k2, lambda_, block=4
            )
        )
    )
    expected = dense_reranking(query, gallery, k1, k2, lambda_)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_reranking_is_an_option_of_the_metric():
    problem = random_problem()
    plain, _ = evaluate(problem)
    same, _ = evaluate(problem, rerank=dict(lambda_=1.0))  # the original order, scaled
    reranked, _ = evaluate(problem, rerank=True)
    assert same == plain
    assert reranked['reid/mAP'] != plain['reid/mAP']


def test_bad_input_is_named(tmp_path):
    problem = random_problem()
    for value, words in ((np.nan, 'NaN'), (np.inf, 'infinity'), (0.0, 'no direction')):
        bad = random_problem()
        bad[1][0][4] = value
        with pytest.raises(ValueError, match=rf'False_4\.jpg.*{words}'):
            evaluate(bad)
    (query, *query_labels), gallery = problem
    with pytest.raises(ValueError, match='0 gallery'):
        evaluate((problem[0], tuple(x[:0] for x in gallery)))
    with pytest.raises(ValueError, match='single camera'):
        evaluate(((query, query_labels[0], 0 * query_labels[1]), (*gallery[:2], 0 * gallery[2])))
    with pytest.raises(ValueError, match="no 'camera'"):
        ReIDMetric().process(None, [dict(pred_feature=torch.ones(2), gt_label=torch.tensor([1]))])
    with pytest.raises(ValueError, match='k2'):
        evaluate(problem, rerank=dict(k1=3, k2=9))
    with pytest.raises(ValueError, match='NaN'):
        rank_gallery(
            [torch.tensor([[np.nan]])], labels(*[np.zeros(1)] * 2), labels(*[np.zeros(1)] * 2)
        )
