"""The forward pass of many intervened copies of a network, computing only what differs.

The inputs are run once, unpatched, and every activation is kept. A cell then differs from that
run only from its first patched site on: in some *rows*, a row being one position of one cell, for
the whole batch. Rows go through the same layers (`workbench.layers`) as `forward` sends whole
networks; attention spreads a difference to the positions that can see it (under a causal mask,
the later ones); whatever did not change is read from the unpatched run. So a cell costs the
layers above it, at the positions from it on, and all cells of a chunk share each matrix product.

`slot = cell * n_pos + pos` numbers the rows. Values of rows are `[row, batch, ...]`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from workbench import layers
from workbench.cell_plan import Sources, Unpatched, make_plan, patched
from workbench.errors import HookError
from workbench.intervene import CPU_BUDGET, CUDA_BUDGET, Cell, Chunk
from workbench.memory import halving_chunks, needs_memory
from workbench.model_config import ModelConfig
from workbench.params import Params
from workbench.transformer import hook_names, unembed


class Rows(NamedTuple):
    """The rows of one activation that differ from the unpatched run; slots ascend."""

    slots: Int[Tensor, " row"]
    values: Tensor


def run_chunks(
    params: Params,
    tokens: Int[Tensor, "batch pos"],
    config: ModelConfig,
    cells: Sequence[Cell],
    *,
    other: Int[Tensor, "batch pos"] | None,
    reference: Int[Tensor, "reference pos"],
    wanted: list[int],
    gradients: bool,
    budget: int | None,
) -> Iterator[Chunk]:
    """What `workbench.intervene.intervene_in_chunks` says, for cells that were checked."""
    batch, n_pos = tokens.shape
    order = {name: place for place, name in enumerate(hook_names(config))}
    starts = [_start(cell, order, n_pos) for cell in cells]
    by_depth = sorted(range(len(cells)), key=lambda cell: starts[cell])  # like beside like
    with _grad_mode(gradients), needs_memory(f"the unpatched run of {batch} inputs"):
        base = Unpatched(params, tokens, config, wanted)
    hooks = frozenset(made.site.hook for cell in cells for made in cell)
    sources = Sources(params, config, base, other, reference, hooks)
    with _grad_mode(gradients):
        sources.run_for(made.source for cell in cells for made in cell)
    if budget is None:
        budget = CUDA_BUDGET if tokens.device.type == "cuda" else CPU_BUDGET

    def run(part: slice) -> Tensor:
        with _grad_mode(gradients):
            chosen = [cells[cell] for cell in by_depth[part]]
            return _Chunk(base, sources, chosen, gradients).logits()

    sizes = [_bytes_of_cell(config, tokens, starts[cell][1]) for cell in by_depth]
    one = f"one cell on {batch} inputs of {n_pos} positions"
    for part, logits in halving_chunks(sizes, budget, run, one=one):
        yield Chunk(cells=by_depth[part], logits=logits)


def _start(cell: Cell, order: Mapping[str, int], n_pos: int) -> tuple[int, int]:
    """Where a cell starts to differ: minus the place of its first hook, and its first position."""
    hooks = [order[made.site.hook] for made in cell]
    at = [pos % n_pos for made in cell for pos in made.site.positions or (0,)]
    return -min(hooks, default=0), min(at, default=0)


def _grad_mode(gradients: bool) -> AbstractContextManager[None]:
    return torch.enable_grad() if gradients else torch.no_grad()


def _bytes_of_cell(config: ModelConfig, tokens: Tensor, first: int) -> int:
    """Of the activations of a cell that are alive together, if it differs from a position on."""
    batch, n_pos = tokens.shape
    rows = n_pos - first if config.attention_dir == "causal" else n_pos
    width = config.n_heads * config.d_head
    per_row = 4 * width + 4 * config.d_model + 2 * config.d_mlp + 2 * config.n_heads * n_pos
    return 4 * batch * (rows * (per_row + config.d_vocab_out) + 2 * n_pos * width)


class _Chunk:
    """Some cells, run together."""

    def __init__(
        self, base: Unpatched, sources: Sources, cells: list[Cell], gradients: bool
    ) -> None:
        self.base, self.sources, self.gradients = base, sources, gradients
        self.params, self.config = base.params, base.config
        self.n_cells, self.n_pos = len(cells), base.n_pos
        self.plan = make_plan(cells, base)
        self.fired: set[str] = set()

    def _at(self, hook: str, rows: Rows) -> Rows:
        """Pass rows through a hook: those patched there join them."""
        if hook not in self.plan:
            return rows
        self.fired.add(hook)
        base = self.base.rows(hook)
        for round in self.plan[hook]:
            slots = _union(rows.slots, round.slots)
            values = self._read(rows, base, slots)
            if torch.equal(slots, round.slots):
                values = patched(hook, round, values, self.sources)
            else:
                at = torch.searchsorted(slots, round.slots)
                values = values.clone()
                values[at] = patched(hook, round, values[at], self.sources)
            rows = Rows(slots, values)
        return rows

    def _read(self, rows: Rows, base: Tensor, slots: Tensor) -> Tensor:
        """Values at these slots, the rows' among them; elsewhere of the unpatched run."""
        if torch.equal(rows.slots, slots):
            return rows.values
        values = base[slots % self.n_pos]
        if len(rows.slots):
            values[torch.searchsorted(slots, rows.slots)] = rows.values
        return values

    # ------------------------------------------------------------------ the layers

    def logits(self) -> Tensor:
        """`[cell, batch, wanted, d_vocab_out]`."""
        embed = self._at("hook_embed", self._none("hook_embed"))
        positional = self._at("hook_pos_embed", self._none("hook_pos_embed"))
        residual = self._add(("hook_embed", embed), ("hook_pos_embed", positional))
        for layer in range(self.config.n_layers):
            if len(residual.slots) or self._touches(layer):
                residual = self._block(layer, residual)
        if silent := sorted(self.plan.keys() - self.fired):
            raise HookError(f"no forward pass came by {', '.join(silent)}; its patch did nothing")
        return self._unembed(residual)

    def _none(self, hook: str) -> Rows:
        base = self.base.rows(hook)
        empty = torch.zeros(0, dtype=torch.long, device=self.base.device)
        return Rows(empty, base[:0])

    def _touches(self, layer: int) -> bool:
        return any(hook.startswith(f"blocks.{layer}.") for hook in self.plan)

    def _add(self, *terms: tuple[str, Rows]) -> Rows:
        """The sum of activations, at the slots where any of them differs."""
        slots = terms[0][1].slots
        for _, rows in terms[1:]:
            slots = _union(slots, rows.slots)
        total = None
        for hook, rows in terms:
            value = self._read(rows, self.base.rows(hook), slots)
            total = value if total is None else total + value
        assert total is not None
        return Rows(slots, total)

    def _block(self, layer: int, residual: Rows) -> Rows:
        name, last = f"blocks.{layer}", layer == self.config.n_layers - 1
        residual = self._at(f"{name}.hook_resid_pre", residual)
        z = self._attention(layer, residual, last)
        if f"{name}.attn.hook_result" in self.plan:
            results = Rows(z.slots, layers.head_results(self.params, layer, z.values))
            results = self._at(f"{name}.attn.hook_result", results)
            out = Rows(results.slots, layers.sum_results(self.params, layer, results.values))
        else:
            merged = rearrange(z.values, "row batch head e -> row batch (head e)")
            out = Rows(z.slots, self.base.weights(layer, "O").of(merged))
        out = self._at(f"{name}.hook_attn_out", out)
        if last:
            residual = self._only_wanted(residual)
        terms = ((f"{name}.hook_resid_pre", residual), (f"{name}.hook_attn_out", out))
        residual = self._add(*terms)
        if self.config.d_mlp:
            residual = self._at(f"{name}.hook_resid_mid", residual)
            written = self._mlp(layer, self._at(f"{name}.hook_mlp_in", residual))
            written = self._at(f"{name}.hook_mlp_out", written)
            residual = self._add(
                (f"{name}.hook_resid_mid", residual), (f"{name}.hook_mlp_out", written)
            )
        return self._at(f"{name}.hook_resid_post", residual)

    def _only_wanted(self, rows: Rows) -> Rows:
        """Drop the positions whose logits nobody asked for."""
        wanted = torch.tensor(self.base.wanted, device=self.base.device)
        keep = torch.isin(rows.slots % self.n_pos, wanted)
        return rows if bool(keep.all()) else Rows(rows.slots[keep], rows.values[keep])

    def _project(self, layer: int, letter: str, residual: Rows, normed: Rows) -> Rows:
        """q, k or v at the rows where the residual stream, or what a head reads of it, differs."""
        name = f"blocks.{layer}"
        hook = f"{name}.hook_{letter}_input"
        params, config = self.params, self.config
        if hook in self.plan:
            read = residual.values[..., None, :]
            copies = read.expand(*read.shape[:-2], config.n_heads, read.shape[-1])
            slots, split = self._at(hook, Rows(residual.slots, copies))
            split = layers.layer_norm(params, config, f"{name}.ln1", split, axes=3)
            made = layers.project_split_heads(params, layer, letter.upper(), split)
        else:
            slots = normed.slots
            made = self.base.weights(layer, letter.upper()).of(normed.values)
            made = rearrange(made, "row batch (head e) -> row batch head e", head=config.n_heads)
        return self._at(f"{name}.attn.hook_{letter}", Rows(slots, made))

    def _attention(self, layer: int, residual: Rows, last: bool) -> Rows:
        """z at the rows where it differs."""
        attn = f"blocks.{layer}.attn"
        normed = Rows(residual.slots, self._normed(f"blocks.{layer}.ln1", residual.values))
        k, v = (self._project(layer, letter, residual, normed) for letter in "kv")
        if last:
            residual, normed = self._only_wanted(residual), self._only_wanted(normed)
        q = self._project(layer, "q", residual, normed)
        differs = self._reach(attn, q, k, v, last)
        cells = differs.any(1).nonzero()[:, 0]
        if not len(cells):
            return self._at(f"{attn}.hook_z", self._none(f"{attn}.hook_z"))
        queries = differs.any(0).nonzero()[:, 0].tolist()
        cell_of, query_of = differs[cells][:, queries].nonzero().unbind(1)
        q_all, k_all, v_all = (
            self._whole(f"{attn}.hook_{letter}", rows, cells, at)
            for letter, rows, at in zip("qkv", (q, k, v), (queries, None, None), strict=True)
        )
        hidden = layers.hidden_keys(self.config, self.n_pos, queries, self.base.device)
        scores = self._scores(q_all, k_all, hidden)
        slots = cells[cell_of] * self.n_pos + torch.tensor(queries, device=cells.device)[query_of]
        scores = self._inside(f"{attn}.hook_attn_scores", scores, slots, cell_of, query_of)
        pattern = layers.attention_pattern(scores, self.config, hidden)
        pattern = self._inside(f"{attn}.hook_pattern", pattern, slots, cell_of, query_of)
        mixed = pattern @ v_all
        if len(slots) == len(cells) * len(queries):  # all of them: one copy, in their order
            z = rearrange(mixed, "cell batch head query e -> (cell query) batch head e")
        else:
            z = mixed[cell_of, :, :, query_of]
        return self._at(f"{attn}.hook_z", Rows(slots, z))

    def _scores(self, q: Tensor, k: Tensor, hidden: Tensor | None) -> Tensor:
        """Products of queries and keys, scaled and masked on the way."""
        mask = q.new_zeros(q.shape[-2], k.shape[-2])
        if hidden is not None:
            mask = mask.masked_fill(hidden, -torch.inf)
        flat = (x.flatten(0, 2) for x in (q, k.transpose(-1, -2)))
        scores = torch.baddbmm(mask, *flat, alpha=1 / math.sqrt(self.config.d_head))
        return scores.view(*q.shape[:3], *scores.shape[1:])

    def _reach(self, attn: str, q: Rows, k: Rows, v: Rows, last: bool) -> Bool[Tensor, "cell pos"]:
        """Where what attention reads differs, or its scores or pattern are patched."""
        seen = self._mask(k.slots, v.slots)
        if self.config.attention_dir == "causal":
            seen = seen.cummax(1).values
        else:
            seen = seen.any(1, keepdim=True).expand_as(seen)
        patched = [
            round.slots
            for hook in (f"{attn}.hook_attn_scores", f"{attn}.hook_pattern")
            for round in self.plan.get(hook, [])
        ]
        differs = seen | self._mask(q.slots, *patched)
        if last:
            wanted = torch.zeros(self.n_pos, dtype=torch.bool, device=differs.device)
            wanted[self.base.wanted] = True
            differs = differs & (wanted | self._mask(*patched) if patched else wanted)
        return differs

    def _mask(self, *slots: Tensor) -> Bool[Tensor, "cell pos"]:
        mask = torch.zeros(self.n_cells * self.n_pos, dtype=torch.bool, device=self.base.device)
        for some in slots:
            mask[some] = True
        return mask.view(self.n_cells, self.n_pos)

    def _whole(self, hook: str, rows: Rows, cells: Tensor, at: list[int] | None) -> Tensor:
        """`[cell, batch, head, pos, d_head]`: the unpatched run with the rows put in."""
        base = self.base.by_head(hook)
        same = (
            self._same_positions(rows.slots) if at is None and len(cells) == self.n_cells else None
        )
        if same is not None:
            whole = rows.values.new_empty(self.n_cells, *base.shape)
            for others in (slice(same.start), slice(same.stop, None)):
                whole[..., others, :] = base[..., others, :]
            form = "(cell pos) batch head e -> cell batch head pos e"
            whole[..., same, :] = rearrange(rows.values, form, cell=self.n_cells)
            return whole
        base = base if at is None or len(at) == self.n_pos else base[:, :, at]
        whole = base.expand(len(cells), *base.shape).clone(memory_format=torch.contiguous_format)
        place = torch.full((self.n_cells,), -1, device=cells.device)
        place[cells] = torch.arange(len(cells), device=cells.device)
        row_of = torch.full((self.n_pos,), -1, device=cells.device)
        chosen = torch.arange(self.n_pos, device=cells.device)
        chosen = chosen if at is None else chosen[at]
        row_of[chosen] = torch.arange(len(chosen), device=cells.device)
        cell, pos = place[rows.slots // self.n_pos], row_of[rows.slots % self.n_pos]
        keep = (cell >= 0) & (pos >= 0)
        if bool(keep.all()):
            whole[cell, :, :, pos] = rows.values
        else:
            whole[cell[keep], :, :, pos[keep]] = rows.values[keep]
        return whole

    def _same_positions(self, slots: Tensor) -> slice | None:
        """The neighbouring positions at which all cells have their rows; None if they differ."""
        length, left = divmod(len(slots), self.n_cells)
        if left or not length:
            return None
        first = torch.arange(self.n_cells, device=slots.device)[:, None] * self.n_pos + slots[0]
        expected = first + torch.arange(length, device=slots.device)
        start = int(slots[0])
        fits = start + length <= self.n_pos and torch.equal(expected.flatten(), slots)
        return slice(start, start + length) if fits else None

    def _inside(
        self, hook: str, whole: Tensor, slots: Tensor, cell_of: Tensor, query_of: Tensor
    ) -> Tensor:
        """Pass scores or patterns through their hook."""
        if hook not in self.plan:
            return whole
        rows = self._at(hook, Rows(slots, whole[cell_of, :, :, query_of]))
        assert len(rows.slots) == len(slots)
        whole = whole.clone()
        whole[cell_of, :, :, query_of] = rows.values
        return whole

    def _mlp(self, layer: int, read: Rows) -> Rows:
        name, params = f"blocks.{layer}", self.params
        normed = self._normed(f"{name}.ln2", read.values)
        pre = layers.linear(normed, params[f"{name}.mlp.W_in"], params.get(f"{name}.mlp.b_in"))
        hook = f"{name}.mlp.hook_pre"
        rows = self._at(hook, Rows(read.slots, pre))
        ours = hook not in self.plan and not self.gradients
        post = layers.activate(self.config, rows.values, inplace=ours)
        rows = self._at(f"{name}.mlp.hook_post", Rows(rows.slots, post))
        out = layers.linear(
            rows.values, params[f"{name}.mlp.W_out"], params.get(f"{name}.mlp.b_out")
        )
        return Rows(rows.slots, out)

    def _normed(self, name: str, x: Tensor) -> Tensor:
        """`layers.layer_norm` of one network, its scale and shift in the same pass."""
        if self.config.normalization is None:
            return x
        w, b = (self.params[f"{name}.{part}"] for part in "wb")
        return F.layer_norm(x, x.shape[-1:], w, b, eps=layers.LAYER_NORM_EPS)

    def _unembed(self, residual: Rows) -> Tensor:
        residual = self._only_wanted(residual)
        made = unembed(self.params, self.config, residual.values)
        shape = (self.n_cells, *self.base.logits.shape)
        logits = self.base.logits.expand(shape).clone()
        cell, pos = residual.slots // self.n_pos, residual.slots % self.n_pos
        for i, wanted in enumerate(self.base.wanted):  # a position may be asked for twice
            here = (pos == wanted).nonzero()[:, 0]
            logits[cell[here], :, i] = made[here]
        return logits


def _union(left: Tensor, right: Tensor) -> Tensor:
    """Slots that are in either, ascending, each once."""
    if not len(right) or torch.equal(left, right):
        return left
    together: Tensor = torch.unique(torch.cat([left, right]))
    return together
