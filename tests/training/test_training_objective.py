"""The whole module under the engine: who learns from what, and why the anchor is there."""

import torch
from bikd_kernels import bidirectional_loss, region_maps

from bikd_fast.config import ObjectiveConfig
from bikd_fast.models.students import STUDENTS
from bikd_fast.models.teacher import Adapter
from bikd_fast.training.distillation import Distillation, Inputs

CHANNELS, STRIDES = (8, 16), (4, 8)


def made(**objective):
    torch.manual_seed(0)
    module = Distillation(Adapter(CHANNELS), STUDENTS["image"](CHANNELS, STRIDES, size=0.125), ObjectiveConfig(**objective))
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    mask = torch.zeros(2, 32, 32, dtype=torch.bool)
    mask[:, 8:24, 8:24] = True
    levels = [(32 // s, 32 // s) for s in STRIDES]
    clean, corrupt = ([torch.randn(2, c, *size) for c, size in zip(CHANNELS, levels)] for _ in range(2))
    return module, Inputs(clean, corrupt, torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), region_maps(mask, levels))


def gradients(beta, **objective):
    module, inputs = made(**objective)
    loss, terms = module(inputs, beta)
    loss.backward()
    teacher = [p.grad for p in module.adapter.parameters()]
    student = [p.grad for p in module.student.parameters()]
    return loss, terms, teacher, student


def moves(grads):
    return any(g is not None and g.abs().max() > 0 for g in grads)


def test_forward_only_trains_the_student_alone():
    loss, terms, teacher, student = gradients(0.0)
    assert moves(student) and not moves(teacher)
    assert torch.allclose(loss, 0.5 * terms["forward_corrupt"] + 0.5 * terms["forward_clean"])


def test_both_directions_train_both():
    loss, terms, teacher, student = gradients(0.3)
    assert moves(student) and moves(teacher)
    assert torch.allclose(loss, terms["forward"] + 3 / 7 * terms["backward"], rtol=1e-5)


def test_beta_one_is_backward_only():
    _, _, teacher, student = gradients(1.0)
    assert moves(teacher) and not moves(student)


def test_every_backward_term_is_a_switch():
    every = dict.fromkeys(("con", "div", "anc"), True)
    full = gradients(0.3, **every)[1]["backward"]
    for term in every:
        less = gradients(0.3, **every | {term: False})[1]["backward"]
        assert not torch.isclose(full, less), term


def test_forward_only_equals_the_fused_objective_at_beta_zero():
    module, inputs = made()
    student_clean, student_corrupt = module._students(inputs)
    fused, _ = bidirectional_loss(
        inputs.clean, inputs.corrupt, student_clean, student_corrupt, inputs.regions,
        adapter_clean=module.adapter(inputs.clean), adapter_corrupt=module.adapter(inputs.corrupt), beta=0.0,
    )  # fmt: skip
    assert torch.allclose(module(inputs, 0.0)[0], fused, rtol=1e-5)


def test_constant_features_are_a_minimum_without_the_backbone_and_are_none_with_it():
    """T = S = const makes every agreement term zero; with T bound to E it cannot be had, and the anchor charges for trying."""
    torch.manual_seed(0)
    constant = torch.randn(1, 8, 1, 1).expand(2, 8, 4, 4).contiguous()
    regions = region_maps(torch.zeros(2, 16, 16), [(4, 4)])
    free = dict(use_anc=False, use_div=False, beta=0.5)
    collapsed, _ = bidirectional_loss([constant], [constant], [constant], [constant], regions, **free)
    assert collapsed.abs() < 1e-6

    clean, corrupt = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    wish = torch.full((2, 8, 4, 4), 20.0) * torch.sign(constant * clean)  # the adapter does its utmost towards the constant
    bound, terms = bidirectional_loss(
        [clean], [corrupt], [constant], [constant], regions, adapter_clean=[wish], adapter_corrupt=[wish], bound=0.5, beta=0.5
    )
    assert bound > 0.3 and terms["anc_clean"] > 0.05
