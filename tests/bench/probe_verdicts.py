"""What probing says of networks that were never trained: how many lines and findings say yes.

python -m tests.bench.probe_verdicts             # twelve networks, three-digit addition, carry_2
"""

import torch

from probes.analyses._findings import probe_findings
from probes.probing import probe_network
from probes.spec import ProbeSpec
from probes.summary import summarise
from workbench.params import init_params
from workbench.progress import finish
from workbench.recipe import default_model, default_recipe, find_recipe
from workbench.subject import Subject
from workbench.task import make_task

SEEDS = range(100, 112)


def main() -> None:
    """Print how many lines are selective and how many findings are supported."""
    torch.set_num_threads(1)
    task = make_task("digit_addition", {"n_digits": 3})
    model, recipe = default_model(task), find_recipe(default_recipe(task))
    spec = ProbeSpec(
        variables=("carry_2",),
        n_inputs=3000,
        n_permutations=99,
        erase=False,
        controls=("control_task", "shuffled", "untrained"),
    )
    lines = selective = supported = 0
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        params = init_params(model, generator, scale=recipe.init_scale)
        subject = Subject(params=params, config=model, task=task, init_scale=recipe.init_scale)
        found = summarise(finish(probe_network(subject, spec)).rows)
        lines += len(found)
        selective += sum(line.selective is True for line in found)
        supported += probe_findings(found)[0].verdict == "supported"
    print(f"selective: {selective} of {lines} lines; supported: {supported} of {len(SEEDS)}")


if __name__ == "__main__":
    main()
