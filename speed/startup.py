"""A training run that starts five seconds of processor time earlier, as long as it compiles nothing.

torch wraps the methods of its optimizers so that its compiler passes them over, and each wrapper imports the compiler
(`torch._dynamo`, 800 modules) to tell it so, even where nothing is ever compiled.
"""

import inspect

import torch
from torch.optim import AdamW, Optimizer


def leave_the_compiler_out() -> None:
    """Take those wrappers off AdamW, for the whole process. Its steps stay the same (tests/speed/test_startup.py)."""
    for name in ("__init__", "add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        setattr(Optimizer, name, inspect.unwrap(getattr(Optimizer, name)))
    AdamW.step = torch.no_grad()(inspect.unwrap(AdamW.step))  # the wrapper's other work: no gradients in a step
