"""Compile the Tracr programs that `tests.ground_truth.tracr_networks` loads.

    python -m tests.ground_truth.compile_tracr [NAME ...]

Needs the optional packages tracr-pypi, jax and dm-haiku; the test suite does not. For each program:
the compiled weights become our parameters, every input of every length up to the longest is run
through our forward pass, through the compiled (haiku) network and through the RASP interpreter, and
the inputs on which the compiled network is wrong are recorded, to be left out. Written are
`tracr/NAME.safetensors` (weights as compiled, and all inputs with their answers) and
`tracr/NAME.json` (shape, vocabulary, compile graph, truth, and what was checked).

Pairs are made, and the truth derived, for inputs one token short of the longest: at the longest
length an attention width of zero, which no input has, is decoded as that very length, so that zero
ablation of a program's `length` would change nothing.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from rich.console import Console
from torch import Tensor
from tracr.compiler import compiling, lib
from tracr.rasp import rasp

from tests.ground_truth.compile_graph import (
    BOS,
    Compiled,
    derive_truth,
    direction_values,
    graph_as_json,
    rasp_graph,
)
from tests.ground_truth.tracr_networks import FOLDER, TOLERANCE
from workbench import config as configuration
from workbench.model_config import ModelConfig, param_shapes
from workbench.params import Params, check_params
from workbench.storage import atomic_write, to_json
from workbench.tensor_files import tensors_to_bytes
from workbench.transformer import forward

HAIKU_TOLERANCE = 2e-3
"""Our residual stream against haiku's, both float32: MLP weights of order 100 times rounding."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A RASP program, and the inputs it is for."""

    make: Callable[[], rasp.SOp]
    vocab: tuple[Any, ...]
    longest: int
    meant_for: Callable[[tuple[Any, ...]], bool] = lambda given: True
    domain: str = "all inputs"
    trap: str = ""
    """Why the compiled network is wrong on some inputs, where it is."""


def _unique(given: tuple[Any, ...]) -> bool:
    return len(set(given)) == len(given)


def _last_token() -> rasp.SOp:
    last = rasp.Select(rasp.indices, lib.make_length() - 1, rasp.Comparison.EQ)
    return rasp.Aggregate(last, rasp.tokens).named("last_token")


def _majority() -> rasp.SOp:
    """Whether more than half of the tokens so far were x. Wrong on some inputs: see its trap."""
    fraction = lib.make_frac_prevs(rasp.tokens == "x")
    return rasp.Map(lambda share: share > 0.5, fraction).named("majority")


PROGRAMS = {
    "reverse": Program(
        make=lambda: lib.make_reverse(rasp.tokens), vocab=("a", "b", "c"), longest=5
    ),
    "hist": Program(make=lib.make_hist, vocab=("a", "b", "c"), longest=5),
    "sort_unique": Program(
        make=lambda: lib.make_sort_unique(rasp.tokens, rasp.tokens),
        vocab=(1, 2, 3, 4, 5),
        longest=4,
        meant_for=_unique,
        domain="inputs without a repeated token, which is what the program is for",
    ),
    "sort": Program(
        make=lambda: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1),
        vocab=(1, 2, 3),
        longest=4,
    ),
    "sort_freq": Program(make=lambda: lib.make_sort_freq(4), vocab=("a", "b", "c"), longest=4),
    "last_token": Program(make=_last_token, vocab=("a", "b", "c"), longest=5),
    "shift_by_one": Program(
        make=lambda: lib.shift_by(1, rasp.tokens), vocab=("a", "b", "c"), longest=5
    ),
    "detect_ab": Program(
        make=lambda: lib.detect_pattern(rasp.tokens, "ab"), vocab=("a", "b", "c"), longest=5
    ),
    "count_a": Program(
        make=lambda: lib.make_count(rasp.tokens, "a"), vocab=("a", "b", "c"), longest=5
    ),
    "count_less_freq": Program(
        make=lambda: lib.make_count_less_freq(2), vocab=("a", "b", "c"), longest=5
    ),
    "dyck": Program(make=lambda: lib.make_shuffle_dyck(["()"]), vocab=("(", ")"), longest=5),
    "majority": Program(
        make=_majority,
        vocab=("x", "y"),
        longest=6,
        trap="the compiler takes an average to be 0, 1 or 1/n, so that 2/3 or 3/5 is read as 1/2",
    ),
    "frac_prevs": Program(
        make=lambda: lib.make_frac_prevs(rasp.tokens == "x"), vocab=("x", "y", "z"), longest=5
    ),
    "pair_balance": Program(
        make=lambda: lib.make_pair_balance(rasp.tokens, "(", ")"),
        vocab=("(", ")", "a"),
        longest=5,
    ),
}


def main() -> None:
    """Compile, check and write the programs named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PROGRAMS, []], metavar="NAME")
    console = Console()
    for name in parser.parse_args().names or PROGRAMS:
        summary = write_fixture(name, PROGRAMS[name], FOLDER)
        console.print(f"{name}: {summary}")


def write_fixture(name: str, program: Program, folder: Path) -> str:
    """Compile one program, check all its inputs, and write its two files."""
    made, assembled = compile_program(program)
    checked = [check_length(made, assembled, program, n) for n in range(1, program.longest + 1)]
    part = checked[program.longest - 2]
    agreed = [given for given, wrong in zip(part.inputs, part.wrong, strict=True) if not wrong]
    edges = derive_truth(made, agreed)
    tensors = dict(made.params)
    for length, part in enumerate(checked, 1):
        tensors[f"inputs.{length}.tokens"] = part.tokens.to(torch.uint8)
        tensors[f"inputs.{length}.answers"] = part.answers.float()
        tensors[f"inputs.{length}.specified"] = part.specified
        tensors[f"inputs.{length}.wrong"] = part.wrong
    numbers = rasp.is_numerical(made.program)
    record = {
        "name": name,
        "model": configuration.to_dict(made.config),
        "output": "number" if numbers else "category",
        "vocabulary": [str(value) for value in _by_index(assembled.input_encoder)],
        "answers": None if numbers else [str(v) for v in _by_index(assembled.output_encoder)],
        "directions": list(made.labels),
        "compile_graph": graph_as_json(made),
        "pairs_length": program.longest - 1,
        "truth": edges,
        "checked": _account(program, made, checked),
    }
    atomic_write(folder / f"{name}.safetensors", tensors_to_bytes(tensors))
    atomic_write(folder / f"{name}.json", to_json(record, where=name, indent=1))
    return f"{made.config.n_layers} layers, {len(edges)} true edges, {record['checked']}"


def compile_program(program: Program) -> tuple[Compiled, Any]:
    """The program as our parameters, and as Tracr's own network."""
    expression, vocab = program.make(), set(program.vocab)
    assembled = compiling.compile_rasp_to_model(
        expression, vocab, program.longest, compiler_bos=BOS
    )
    graph, sink = rasp_graph(expression, vocab, program.longest)
    labels = tuple(assembled.residual_labels)
    params, config = convert(assembled, labels, graph.nodes[sink]["OUTPUT_BASIS"])
    made = Compiled(
        program=expression,
        rasp_graph=graph,
        sink=sink,
        params=params,
        config=config,
        labels=labels,
    )
    return made, assembled


def convert(
    assembled: Any, labels: tuple[str, ...], output: Sequence[Any]
) -> tuple[Params, ModelConfig]:
    """Tracr's parameters under our names.

    Both divide scores by the square root of d_head, so nothing is rescaled. Tracr's biases are all
    zero, which is checked, and left out. A number is read as logit 0; logit 1 is then always 0.
    """
    given = {
        f"{module}/{key}": np.asarray(value)
        for module, held in assembled.params.items()
        for key, value in held.items()
    }
    assert all((value == 0).all() for name, value in given.items() if name.endswith("/b"))
    shape = assembled.model_config
    assert not shape.layer_norm
    config = ModelConfig(
        n_layers=shape.num_layers,
        n_heads=shape.num_heads,
        d_model=len(labels),
        d_head=shape.key_size,
        d_mlp=shape.mlp_hidden_size,
        d_vocab=given["token_embed/embeddings"].shape[0],
        d_vocab_out=max(2, len(output)),
        n_ctx=given["pos_embed/embeddings"].shape[0],
        attention_dir="causal" if shape.causal else "bidirectional",
        mlp_biases=False,
    )
    arrays = _renamed(given, config)
    arrays["unembed.W_U"] = np.zeros((config.d_model, config.d_vocab_out))
    for column, direction in enumerate(output):
        arrays["unembed.W_U"][labels.index(str(direction)), column] = 1
    params = {
        name: torch.tensor(arrays[name], dtype=torch.float32) for name in param_shapes(config)
    }
    check_params(params, config)
    return params, config


def _renamed(given: dict[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Everything but the unembedding, which Tracr has no weights for."""
    arrays = {
        "embed.W_E": given["token_embed/embeddings"],
        "pos_embed.W_pos": given["pos_embed/embeddings"],
    }
    heads = "d_model (head d_head) -> head d_model d_head"
    for layer in range(config.n_layers):
        theirs, ours = f"transformer/layer_{layer}", f"blocks.{layer}"
        for letter, name in (("Q", "query"), ("K", "key"), ("V", "value")):
            flat = given[f"{theirs}/attn/{name}/w"]
            arrays[f"{ours}.attn.W_{letter}"] = rearrange(flat, heads, head=config.n_heads)
        arrays[f"{ours}.attn.W_O"] = rearrange(
            given[f"{theirs}/attn/linear/w"],
            "(head d_head) d_model -> head d_head d_model",
            head=config.n_heads,
        )
        arrays[f"{ours}.mlp.W_in"] = given[f"{theirs}/mlp/linear_1/w"]
        arrays[f"{ours}.mlp.W_out"] = given[f"{theirs}/mlp/linear_2/w"]
    return arrays


class Checked(NamedTuple):
    """All inputs of one length, their answers by RASP, and where the compiled network is wrong."""

    inputs: list[tuple[Any, ...]]
    tokens: Tensor
    answers: Tensor
    """`[input, pos]` for the positions after BOS: index of the category, or the number."""
    specified: Tensor
    """Where RASP gives a value at all (it gives None where a selector selects nothing)."""
    wrong: Tensor
    haiku_gap: float


def check_length(made: Compiled, assembled: Any, program: Program, length: int) -> Checked:
    """Run every input of this length three ways: RASP, haiku and ours."""
    inputs = [
        given
        for given in itertools.product(program.vocab, repeat=length)
        if program.meant_for(given)
    ]
    encoder = assembled.input_encoder
    tokens = torch.tensor([encoder.encode([BOS, *given]) for given in inputs])
    theirs = assembled.forward(assembled.params, tokens.numpy())
    last = f"blocks.{made.config.n_layers - 1}.hook_resid_post"
    ours = forward(made.params, tokens, made.config, taps=[last])
    residual = torch.tensor(np.asarray(theirs.transformer_output.output))
    gap = float((ours.activations[last] - residual).abs().max())
    assert gap < HAIKU_TOLERANCE, (length, gap)
    answers, specified, wrong = _answers(made, assembled, inputs, tokens)
    if not rasp.is_numerical(made.program):
        decoded = torch.tensor(np.asarray(theirs.unembedded_output))[:, 1:]
        right = specified & ~wrong[:, None]
        assert bool((decoded == answers)[right].all())
    return Checked(inputs, tokens, answers, specified, wrong, gap)


def _answers(
    made: Compiled, assembled: Any, inputs: list[tuple[Any, ...]], tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """RASP's answers, where there are any, and the inputs on which ours differ."""
    expected = [made.program(list(given)) for given in inputs]
    specified = torch.tensor([[value is not None for value in row] for row in expected])
    exact = {name: tensor.double() for name, tensor in made.params.items()}
    logits = forward(exact, tokens, made.config).logits[:, 1:]
    if rasp.is_numerical(made.program):
        answers = torch.tensor([[float(v or 0) for v in row] for row in expected]).double()
        off = (logits[..., 0] - answers).abs() > TOLERANCE
    else:
        index = assembled.output_encoder.encoding_map
        answers = torch.tensor([[index.get(v, 0) for v in row] for row in expected])
        known = torch.tensor([[v is None or v in index for v in row] for row in expected])
        off = (logits.argmax(-1) != answers) | ~known
    return answers, specified, (off & specified).any(1)


def _account(program: Program, made: Compiled, checked: list[Checked]) -> dict[str, Any]:
    """What was checked, in words and numbers."""
    exact = {name: tensor.double() for name, tensor in made.params.items()}
    last = f"blocks.{made.config.n_layers - 1}.hook_resid_post"
    part = checked[program.longest - 2]
    residual = forward(exact, part.tokens, made.config, taps=[last]).activations[last]
    off = (residual - direction_values(made, part.inputs)).abs()[~part.wrong]
    wrong = [
        "".join(map(str, given))
        for part in checked
        for given, bad in zip(part.inputs, part.wrong.tolist(), strict=True)
        if bad
    ]
    assert bool(wrong) == bool(program.trap), wrong
    return {
        "domain": program.domain,
        "inputs": sum(len(part.inputs) for part in checked),
        "lengths": [1, program.longest],
        "largest_gap_to_haiku": max(part.haiku_gap for part in checked),
        "wrong": len(wrong),
        "wrong_inputs": wrong,
        "why_wrong": program.trap,
        "variables_off_by_at_most": float(off[:, 1:].max()),
        "directions_off_at_bos": sorted(
            {made.labels[i] for i in (off[:, 0] > TOLERANCE).any(0).nonzero()[:, 0].tolist()}
        ),
    }


def _by_index(encoder: Any) -> list[Any]:
    return sorted(encoder.encoding_map, key=encoder.encoding_map.__getitem__)


if __name__ == "__main__":
    main()
