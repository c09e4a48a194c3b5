import itertools

import torch
from torch import nn

from fitb_callbacks import FillInBlanks
from fitb_callbacks.probing.bfgs import BFGSUpdate, bfgs_direction
from fitb_callbacks.probing.updates import GradientUpdate


def quadratics(rows=6, size=4, seed=0):
    """Positive definite matrices (rows, size, size), starts, and the function that evaluates the quadratics."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(rows, size, size, generator=generator, dtype=torch.float64)
    hessian = square @ square.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    seen = []

    def evaluate(points):
        seen.append(points)
        gradient = (hessian @ points[..., None]).squeeze(-1)
        return (points * gradient).sum(1) / 2, gradient

    return hessian, 5 * torch.randn(rows, size, generator=generator, dtype=torch.float64), evaluate, seen


def cosine(left, right):
    return torch.nn.functional.cosine_similarity(left, right, dim=1)


def test_direction_comes_to_newtons_on_quadratics():
    """From x the Newton direction of a quadratic with its minimum at 0 is -x; the gradient's is far from it."""
    hessian, start, evaluate, seen = quadratics()
    similarity = {}
    for num_steps in (1, 12):
        _, direction = bfgs_direction(evaluate, start, num_steps=num_steps)
        similarity[num_steps] = cosine(direction, -seen[-1])
    gradient = (hessian @ seen[-1][..., None]).squeeze(-1)
    assert similarity[12].min() > 0.98
    assert similarity[1].mean() < 0.9
    assert cosine(-gradient, -seen[-1]).mean() < 0.9


def test_direction_is_exactly_newtons_along_a_principal_axis():
    hessian = torch.diag(torch.tensor([4.0, 9.0], dtype=torch.float64))
    start = torch.tensor([[3.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    seen = []

    def evaluate(points):
        seen.append(points)
        return (points @ hessian * points).sum(1) / 2, points @ hessian

    _, direction = bfgs_direction(evaluate, start, num_steps=1)
    torch.testing.assert_close(direction, -seen[-1])


def test_two_loop_recursion_is_the_textbooks_matrix():
    """B p = -gradient, with B updated by BFGS's own formula (Nocedal and Wright, equation 6.19) as a dense matrix."""
    hessian, start, evaluate, seen = quadratics(rows=1)
    _, direction = bfgs_direction(evaluate, start, num_steps=4)
    accepted = [seen[0][0]]
    for point in torch.cat(seen[1:]):  # the line search leaves trials behind that do not lower the loss
        if point @ hessian[0] @ point < accepted[-1] @ hessian[0] @ accepted[-1]:
            accepted.append(point)
    assert len(accepted) == 5
    matrix = None
    for before, after in itertools.pairwise(accepted):
        step, change = after - before, hessian[0] @ (after - before)
        if matrix is None:
            matrix = torch.eye(4, dtype=torch.float64) * (change @ change) / (change @ step)
        product = matrix @ step
        matrix = matrix - torch.outer(product, product) / (step @ product)
        matrix = matrix + torch.outer(change, change) / (change @ step)
    expected = torch.linalg.solve(matrix, -hessian[0] @ accepted[-1])
    torch.testing.assert_close(direction[0], expected)


def test_rows_do_not_mix():
    _, start, evaluate, _ = quadratics(rows=1)
    _, alone = bfgs_direction(evaluate, start, num_steps=3)
    _, together = bfgs_direction(
        lambda points: tuple(map(torch.cat, zip(evaluate(points[:1]), evaluate(points[1:]), strict=True))),
        torch.cat([start, 7 * start]),
        num_steps=3,
    )
    torch.testing.assert_close(together[:1], alone)


def test_rows_without_positive_curvature_fall_back_to_their_gradient():
    """Row 0 is a bowl, row 1 a dome, row 2 a slope without end, row 3 flat."""
    curvature = torch.tensor([2.0, -2.0, 0.0, 0.0])[:, None]
    slope = torch.tensor([0.0, 0.0, 3.0, 0.0])[:, None]

    def evaluate(points):
        return (curvature * points.square() / 2 + slope * points).sum(1), curvature * points + slope

    start = torch.tensor([[3.0, 4.0]]).repeat(4, 1)
    gradient, direction = bfgs_direction(evaluate, start, num_steps=1)
    torch.testing.assert_close(direction[1:], -gradient[1:])
    assert not torch.allclose(direction[0], -gradient[0])
    assert (cosine(direction[:1], -start[:1]) > 0.999).all()


def test_update_moves_masked_pixels_only_and_weighs_as_much_as_the_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
    visible = torch.rand(20, 1, 4, 4) > 0.4
    masked, labels = torch.rand(20, 1, 4, 4) * visible, torch.arange(20) % 3
    second, first = (rule.find(model, masked, labels, visible) for rule in (BFGSUpdate(num_steps=3), GradientUpdate()))
    update, gradient = second.values, first.values.masked_fill(visible, 0)
    assert torch.equal(second.predicted, first.predicted)
    assert torch.equal(second.log_p, first.log_p)
    assert update[visible].count_nonzero() == 0
    torch.testing.assert_close(update.flatten(1).norm(dim=1), gradient.flatten(1).norm(dim=1))
    assert not torch.allclose(update, gradient)
    lower = nn.functional.cross_entropy(model(masked + 0.1 * update), labels, reduction="none")
    assert (lower <= nn.functional.cross_entropy(model(masked), labels, reduction="none")).float().mean() > 0.9


def test_both_maskings_take_the_second_order_update():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    images = torch.rand(6, 1, 8, 8)
    labels = model(images).argmax(dim=1)
    for masking in ("random", "progressive"):
        first, second = (
            FillInBlanks(masking=masking, update=update, num_masks=16, bfgs_steps=2).probe(model, images, labels)
            for update in ("gradient", "bfgs")
        )
        assert second.covered.all()
        assert not torch.allclose(first.updates, second.updates)
        similarity = cosine(first.updates.flatten(1), second.updates.flatten(1))
        assert similarity.min() > 0.5  # paper, figure 5: no great difference
        if masking == "random":
            assert torch.equal(first.kept, second.kept)
