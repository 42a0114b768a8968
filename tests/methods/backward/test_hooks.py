"""Hooks on parameters act once, on the whole gradient."""

import pytest


def _hooked(solve, net, start, hook):
    field, y0, log = net(), start(), []
    for p in field.parameters():
        p.register_hook(lambda g: log.append(1) or hook(g))
    solve(field, y0)[-1].pow(2).sum().backward()
    return [y0.grad, *(p.grad for p in field.parameters())], len(log)


@pytest.mark.parametrize(
    "hook", [lambda g: -g, lambda g: g.clamp(-0.05, 0.05), lambda g: 0.1 * g, lambda g: None],
    ids=["reverse", "clip", "scale", "watch"],
)  # fmt: skip
def test_a_hook_acts_once_on_the_whole_gradient(solving, hook, net, start, apart):
    """Reversal, clipping, scaling and watching are naive's, in number too; behind the pass the hooks are there."""
    found, calls = _hooked(solving, net, start, hook)
    true, true_calls = _hooked(solving.naive(), net, start, hook)
    assert apart(found, true) < solving.near
    assert calls == true_calls == 4


def test_hooks_after_accumulation_run_once(solving, net, start):
    """An optimizer in the backward pass: each parameter steps once, by its whole gradient."""
    field, y0, log = net(), start(), []
    for p in field.parameters():
        p.register_post_accumulate_grad_hook(lambda q: log.append(q.grad.clone()))
    solving(field, y0).pow(2).sum().backward()
    assert len(log) == 4
    twin, y1 = net(), start()
    solving.naive()(twin, y1).pow(2).sum().backward()
    found = sorted(float(g.abs().sum()) for g in log)
    assert found == pytest.approx(sorted(float(p.grad.abs().sum()) for p in twin.parameters()), rel=10 * solving.near)


def test_a_hook_that_raises_leaves_the_others_in_place(solving, net, start):
    """The hooks are back on the parameters whatever happens inside."""
    field, y0 = net(), start()
    for p in field.parameters():
        p.register_hook(lambda g: 2 * g)
    solving(field, y0).pow(2).sum().backward()
    assert all(len(p._backward_hooks) == 1 for p in field.parameters())
