"""Lighter tiers learn from the heaviest one's scores, on what both learn from, and the teacher does not notice."""

import dataclasses

import numpy as np
import pytest
import torch

from kernels.linear_compress import bind
from ranker.config import LearnerConfig, ModelConfig
from ranker.inputs.features import Featurizer
from ranker.learning.distillation import distillation_loss
from ranker.learning.learner import Learner
from ranker.learning.lessons import Lesson, make_lessons
from ranker.model.tier import Logits
from tests.ranker.samples import labelled, request, tiny_model


def distilled_model() -> ModelConfig:
    model = tiny_model()
    light, *others = model.tiers
    return dataclasses.replace(model, tiers=(dataclasses.replace(light, distilled=True), *others))


def learner_of(model: ModelConfig, **settings: float) -> Learner:
    return Learner(model, LearnerConfig(**settings), bind("decomposed"))  # type: ignore[arg-type]


def lessons_of(learner: Learner, served_by: list[str]) -> list[Lesson]:
    """Responses of two items each, served by these tiers; dearer tiers learn from no others."""
    examples = [
        dataclasses.replace(labelled(n, request(f"u{n}", [f"a{n}", f"b{n}"]), [1, 0]), tier=tier)
        for n, tier in enumerate(served_by)
    ]
    return make_lessons(learner.config, Featurizer(learner.config), learner.tables, examples, 0.0)


def forward(learner: Learner, lessons: list[Lesson]) -> list[Logits]:
    return [learner.tiers[x.tier](x.batch, learner.tables, x.position_N) for x in lessons]


def test_only_what_both_learn_from_is_distilled_and_the_teacher_gets_no_gradient() -> None:
    learner = learner_of(distilled_model())
    light, heavy = (tier.name for tier in learner.config.tiers)
    lessons = lessons_of(learner, [light, heavy, light, heavy])
    logits = forward(learner, lessons)
    student, teacher = logits
    assert student.distilled_NH is not None
    assert teacher.distilled_NH is None
    assert len(student.click_N) == 8
    assert len(teacher.click_N) == 4
    loss = distillation_loss(learner.config, lessons, logits)
    # The student's rows of responses 1 and 3, against the teacher's in their order.
    own = student.distilled_NH[[2, 3, 6, 7]]
    taught = torch.sigmoid(torch.stack([teacher.click_N, teacher.conversion_N], dim=1))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(own, taught.detach(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in learner.tiers[heavy].parameters())
    heads = learner.tiers[light].heads
    assert heads.distilled_Hh is not None
    assert heads.distilled_Hh.grad is not None
    assert heads.out_Hh.grad is None  # what serves learns from labels alone


@pytest.mark.parametrize("served_by", [["light", "light"], []])
def test_without_the_teacher_there_is_nothing_to_distil(served_by: list[str]) -> None:
    learner = learner_of(distilled_model())
    lessons = lessons_of(learner, served_by)
    assert distillation_loss(learner.config, lessons, forward(learner, lessons)).item() == 0.0


def test_the_auxiliary_head_comes_to_agree_with_the_teacher() -> None:
    learner = learner_of(distilled_model(), dense_rate=1e-2)
    heavy = learner.config.tiers[-1].name
    examples = [
        dataclasses.replace(labelled(n, request(f"u{n}", [f"a{n % 3}", f"b{n % 3}"]), [1, 0]), tier=heavy)
        for n in range(8)
    ]

    def apart() -> float:
        lessons = make_lessons(learner.config, Featurizer(learner.config), learner.tables, examples, 0.0)
        student, teacher = forward(learner, lessons)
        assert student.distilled_NH is not None
        with torch.no_grad():
            gap = torch.sigmoid(student.distilled_NH[:, 0]) - torch.sigmoid(teacher.click_N)
        return float(np.abs(gap.numpy()).mean())

    for _ in range(5):
        learner.learn(examples)
    before = apart()
    for _ in range(60):
        learner.learn(examples)
    assert apart() < max(0.5 * before, 0.1)
