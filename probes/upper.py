"""The layers above a site as a network of their own, so that training there costs no more.

`forward` runs it; what the layers below give it is read once and put at its first residual stream.
Sites that share the lowest block they touch share one such network. After the last attention only
the answer positions are left, and attention writes nothing.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from probes.sites import ProbeSite
from workbench.errors import HookError
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import Edit, forward, hook_names

AFTER_ATTENTION = ("attn_out", "resid_mid", "mlp_in", "pre", "post", "mlp_out", "resid_post")


class Swapped(NamedTuple):
    """What is swapped in: at a site per basis, the source's component in the basis.

    Sources are given less their bases, so that a swap is a sum, whatever a hook holds.
    """

    sites: Sequence[int]
    difference: Float[Tensor, "basis batch d"]
    bases: Float[Tensor, "basis d rank"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UpperNetwork:
    """Some layers of a network, and what reaches them from each input."""

    params: Params
    config: ModelConfig
    tokens: Int[Tensor, "input kept"]
    """Of the inputs, or zeros where `residual` takes their place."""
    residual: Float[Tensor, "input kept d_model"] | None
    """The residual stream that enters; None where the network is whole."""
    kept: tuple[int, ...]
    """Which positions of the inputs there are."""
    answers: tuple[int, ...]
    """Positions of the inputs whose logits are wanted."""
    hooks: dict[int, tuple[str, ProbeSite]]
    """Its hook for each site, by the site's index among all."""

    @property
    def bytes_per_input(self) -> int:
        """Of the activations that a gradient keeps, roughly."""
        config, n = self.config, len(self.kept)
        stream = 6 * config.d_model + 4 * config.n_heads * (config.d_head + n)
        answer = 3 * config.d_mlp + 3 * config.d_vocab_out
        return 4 * (n * stream + len(self.answers) * answer)

    def run(
        self, rows: Int[Tensor, "basis batch"], swapped: Swapped
    ) -> Float[Tensor, "basis batch answer d_vocab_out"]:
        """Logits of some inputs for every basis, after its swap."""
        n_bases, flat = len(rows), rows.flatten()
        edits: dict[str, Edit] = {}
        for hook in {self.hooks[site][0] for site in swapped.sites}:
            edits[hook] = self._edit(hook, swapped)
        entry = "blocks.0.hook_resid_pre"
        if self.residual is not None:
            entering = self.residual[flat]
            then = edits.get(entry)
            edits[entry] = lambda _: entering if then is None else then(entering)
        positions = [self.kept.index(at) for at in self.answers]
        made = forward(
            self.params, self.tokens[flat], self.config, positions=positions, edits=edits
        )
        return rearrange(made.logits, "(basis batch) a v -> basis batch a v", basis=n_bases)

    def _edit(self, hook: str, swapped: Swapped) -> Callable[[Tensor], Tensor]:
        """Swap at one hook, for the bases whose site is there."""

        def edit(x: Tensor) -> Tensor:
            there = self.kept if x.shape[1] == len(self.kept) else self.answers
            found = [(i, *self.hooks[site]) for i, site in enumerate(swapped.sites)]
            mine = [(i, at) for i, own, at in found if own == hook and at.position in there]
            if not mine:  # nothing reads this position any more
                return x
            basis = torch.tensor([i for i, _ in mine], device=x.device)
            pos = torch.tensor([there.index(at.position) for _, at in mine], device=x.device)
            n_bases = len(swapped.sites)
            whole = rearrange(x, "(basis batch) ... -> basis batch ...", basis=n_bases).clone()
            heads = [at.head for _, at in mine]
            place: tuple[Tensor | slice, ...] = (basis, slice(None), pos)
            if heads[0] is not None:
                place = (*place, torch.tensor(heads, device=x.device))
            within = swapped.bases[basis]
            move = swapped.difference[basis] @ within @ within.transpose(1, 2)
            whole[place] = whole[place] + move
            return rearrange(whole, "basis batch ... -> (basis batch) ...")

        return edit


def upper_networks(
    params: Params,
    config: ModelConfig,
    tokens: Int[Tensor, "input pos"],
    answers: Sequence[int],
    sites: Sequence[ProbeSite],
) -> list[UpperNetwork]:
    """One network per block that is the lowest of some sites. Raises `HookError`."""
    places = [_place(site, config) for site in sites]
    made = []
    for layer, after in sorted(set(places)):
        mine = {i: at for i, at in enumerate(sites) if places[i] == (layer, after)}
        build = _after_attention if after else _from_block
        made.append(build(params, config, tokens, tuple(answers), layer, mine))
    return made


def _place(site: ProbeSite, config: ModelConfig) -> tuple[int, bool]:
    """The block from which on a site changes anything, and whether only after its attention."""
    if site.hook not in hook_names(config):
        raise HookError(f"no hook {site.hook} in this network; write sites with parse_site()")
    match = re.match(r"blocks\.(\d+)\.", site.hook)
    layer = 0 if match is None else int(match[1])
    last = layer == config.n_layers - 1
    leaf = site.hook.rsplit("hook_", 1)[-1]
    if leaf == "resid_post" and not last:
        return layer + 1, False
    return layer, match is not None and last and leaf in AFTER_ATTENTION


def _from_block(
    params: Params,
    config: ModelConfig,
    tokens: Tensor,
    answers: tuple[int, ...],
    layer: int,
    sites: dict[int, ProbeSite],
) -> UpperNetwork:
    hooks = {}
    for i, site in sites.items():
        own = site.hook
        if own == f"blocks.{layer - 1}.hook_resid_post":
            own = f"blocks.{layer}.hook_resid_pre"
        hooks[i] = (_renumbered(own, layer), site)
    residual = None if layer == 0 else _read(params, config, tokens, f"{layer}.hook_resid_pre")
    return UpperNetwork(
        params={_renumbered(name, layer): x for name, x in params.items() if _is_in(name, layer)},
        config=replace(config, n_layers=config.n_layers - layer),
        tokens=tokens if residual is None else torch.zeros_like(tokens),
        residual=residual,
        kept=tuple(range(tokens.shape[1])),
        answers=answers,
        hooks=hooks,
    )


def _after_attention(
    params: Params,
    config: ModelConfig,
    tokens: Tensor,
    answers: tuple[int, ...],
    layer: int,
    sites: dict[int, ProbeSite],
) -> UpperNetwork:
    """The last MLP and the unembedding; one head of width one, all zero, stands for attention."""
    leaf = "hook_resid_mid" if config.d_mlp else "hook_resid_post"
    residual = _read(params, config, tokens, f"{layer}.{leaf}")[:, list(answers)]
    own = {_renumbered(name, layer): x for name, x in params.items() if _is_in(name, layer)}
    own = {name: x for name, x in own.items() if ".attn." not in name}
    for letter in "QKV":
        own[f"blocks.0.attn.W_{letter}"] = residual.new_zeros(1, config.d_model, 1)
    own["blocks.0.attn.W_O"] = residual.new_zeros(1, 1, config.d_model)
    return UpperNetwork(
        params=own,
        config=replace(config, n_layers=1, n_heads=1, d_head=1, attn_biases=False),
        tokens=torch.zeros_like(tokens[:, : len(answers)]),
        residual=residual,
        kept=answers,
        answers=answers,
        hooks={i: (_renumbered(site.hook, layer), site) for i, site in sites.items()},
    )


def _read(params: Params, config: ModelConfig, tokens: Tensor, hook: str) -> Tensor:
    with torch.no_grad():
        return forward(params, tokens, config, taps=[f"blocks.{hook}"]).activations[
            f"blocks.{hook}"
        ]


def _is_in(name: str, layer: int) -> bool:
    match = re.match(r"blocks\.(\d+)\.", name)
    return match is None or int(match[1]) >= layer


def _renumbered(name: str, layer: int) -> str:
    """The name with its block counted from `layer`."""
    match = re.match(r"blocks\.(\d+)\.", name)
    return name if match is None else f"blocks.{int(match[1]) - layer}.{name[match.end() :]}"
