"""Training: one visible loop; steps, balancers and engines are objects passed in."""

from polytask.training.alone import Balanced
from polytask.training.balancers import BALANCERS, Balancer, as_balancer
from polytask.training.engine import Engine
from polytask.training.gradients import Problem, Statistics, balance
from polytask.training.learner import Explains, FittedMixin, Incremental, Learner, NeuralLearner
from polytask.training.loop import Training, evaluate, train
from polytask.training.module import MultiTaskModule
from polytask.training.steps import SAM, STEPS, Plain, Step, TaskFlat, as_step

__all__ = [
    "BALANCERS",
    "SAM",
    "STEPS",
    "Balanced",
    "Balancer",
    "Engine",
    "Explains",
    "FittedMixin",
    "Incremental",
    "Learner",
    "MultiTaskModule",
    "NeuralLearner",
    "Plain",
    "Problem",
    "Statistics",
    "Step",
    "TaskFlat",
    "Training",
    "as_balancer",
    "as_step",
    "balance",
    "evaluate",
    "train",
]
