"""An antibody language model: residues in, hidden states, likelihoods and new antibodies out.

Any causal language model of `transformers` with one token a residue works: the checkpoint brings the weights, the
template (`presets.ModelSpec`) says how chains are written. Layers count from 1: layer 2 is the residual stream after
the second block (`hidden_states[2]` in transformers' words), before any final norm.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.cache_utils import Cache

from antibody_sae import hardware
from antibody_sae.antibody import RESIDUES
from antibody_sae.io import InputError, sha256_file
from antibody_sae.models import attention, generation
from antibody_sae.models.presets import ModelSpec, drawn_with, known_as, resolve
from antibody_sae.species import tag

if TYPE_CHECKING:
    from antibody_sae.sections import DrawnModel, ModelSection

transformers.logging.set_verbosity_error()
Edit = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Edit(hidden [batch, t, d_model], tokens [batch, T], rows [batch]) -> hidden: changes the residual stream at the last
t of the T tokens read so far (t = T in a full pass, t = 1 while generating with the cache). `rows` says which sequences
of the call these are: the n-th to be written, or the n-th passage. An edit that treats them differently says so by a
method kinds(rows) -> [batch] numbers, equal for rows that are treated alike."""


@dataclass(frozen=True)
class Encoded:
    """One passage for the model."""

    tokens: np.ndarray
    """[T] token ids, tags and stop included."""
    residue: np.ndarray
    """[T] index of the residue within the antibody (heavy, then light); -1 for tags and stop."""


class _Stop(Exception):
    """Ends a forward pass once the last layer asked for has been seen."""


class AntibodyModel:
    """A loaded checkpoint; make one with `load`.

    Right-padding needs no attention mask here: attention is causal, so no residue sees what comes after it.
    """

    def __init__(
        self, spec: ModelSpec, hf: nn.Module, vocabulary: Mapping[str, int], provenance: dict[str, Any]
    ) -> None:
        self.spec, self.hf, self.provenance = spec, hf, provenance
        self._vocabulary = vocabulary
        base: Any = hf.base_model
        found = [m for m in base.children() if isinstance(m, nn.ModuleList)]
        if not found:
            raise InputError(f"model {spec.name}: no list of blocks found in {type(base).__name__}")
        self.blocks: nn.ModuleList = max(found, key=len)
        self.hook_prefix = next(name for name, m in hf.named_modules() if m is self.blocks)
        norms = [m for name, m in base.named_children() if re.search(r"norm|ln_f", name)]
        self._final_norm: nn.Module = norms[-1] if norms else nn.Identity()
        config: Any = hf.config
        self._buffers = [attention.Buffer() for _ in self.blocks]
        self.n_layers = len(self.blocks)
        self.d_model = int(config.hidden_size)
        self.max_tokens = int(getattr(config, "max_position_embeddings", 0) or 10**6)
        parameter = next(hf.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.dtype_name = str(self.dtype).removeprefix("torch.")
        missing = [r for r in RESIDUES if r not in vocabulary]
        if missing:
            raise InputError(
                f"model {spec.name}: its tokenizer has no token for {', '.join(missing)}; one token a residue is needed"
            )
        self.residue_tokens = {r: vocabulary[r] for r in RESIDUES}

    def under(self, spec: ModelSpec) -> AntibodyModel:
        """The same weights under another template."""
        return AntibodyModel(spec, self.hf, self._vocabulary, self.provenance)

    @property
    def head(self) -> nn.Module:
        """What makes logits of the normed residual stream."""
        head: nn.Module = self.hf.get_output_embeddings()  # type: ignore[operator]
        return head

    @property
    def vocabulary(self) -> int:
        """Number of logits; some checkpoints have more than tokens."""
        weight: Any = self.head.weight
        return int(weight.shape[0])

    # -- writing antibodies for the model ------------------------------------------------------------------------

    def _template(self, chains: str, species: str) -> list[str]:
        """Tokens and the places of the chains ("{heavy}", "{light}") of a template."""
        if chains not in self.spec.templates:
            raise InputError(
                f"model {self.spec.name}: reads {' or '.join(self.spec.templates)} (H heavy, L light, HL pairs), "
                f"not {chains}"
            )
        text = self.spec.templates[chains]
        word = tag(species, self.spec.species)
        if "{species}" in text and word is None:
            raise InputError(f"model {self.spec.name}: species {species!r} is none of {', '.join(self.spec.species)}")
        text = text.replace("{species}", (word or "").upper())
        names = sorted((*self._vocabulary, "{heavy}", "{light}"), key=len, reverse=True)
        pieces = re.findall("|".join(map(re.escape, names)), text)
        if "".join(pieces) != text:
            raise InputError(f"model.template: {text!r} is not made of tokens of model {self.spec.name}")
        if not {"H": {"{heavy}"}, "L": {"{light}"}, "HL": {"{heavy}", "{light}"}}[chains] <= set(pieces):
            raise InputError(f"model.template: {text!r} lacks a chain of {chains}")
        return pieces

    def prefix(self, chains: str, species: str = "human") -> list[int]:
        """Token ids before the first residue."""
        pieces = self._template(chains, species)
        first = min(i for i, p in enumerate(pieces) if p.startswith("{"))
        return [self._vocabulary[p] for p in pieces[:first]]

    def stop_token(self, chains: str, species: str = "human") -> int:
        """The token that the template puts after the last residue (not what the checkpoint's config calls EOS:
        p-IgGen's says 2, which is arginine)."""
        last = self._template(chains, species)[-1]
        if last.startswith("{"):
            raise InputError(f"model.template: {self.spec.templates[chains]!r} has no token after the last residue")
        return self._vocabulary[last]

    def encode(
        self, heavy: str | None, light: str | None = None, species: str = "human", chains: str | None = None
    ) -> list[Encoded]:
        """The passages of an antibody: one, or one a chain where the model reads one chain at a time.

        `chains` names the template where it does not follow from the chains: a generated pair that cannot be cut in two
        is still read as a pair. Raises InputError for a residue without a token, or a passage longer than
        the model's context.
        """
        chains = chains or ("H" if heavy else "") + ("L" if light else "")
        if chains not in self.spec.templates and len(chains) == 2:
            first, second = self.encode(heavy, None, species), self.encode(None, light, species)
            shifted = np.where(second[0].residue >= 0, second[0].residue + len(heavy or ""), -1)
            return [*first, Encoded(second[0].tokens, shifted)]
        tokens: list[int] = []
        residue: list[int] = []
        count = 0
        for piece in self._template(chains, species):
            sequence = {"{heavy}": heavy or "", "{light}": light or ""}.get(piece)
            if sequence is None:
                tokens.append(self._vocabulary[piece])
                residue.append(-1)
                continue
            try:
                tokens += [self.residue_tokens[r] for r in sequence]
            except KeyError as error:
                raise InputError(
                    f"model {self.spec.name}: no token for residue {error} in {sequence[:20]}..."
                ) from None
            residue += range(count, count + len(sequence))
            count += len(sequence)
        if len(tokens) > self.max_tokens:
            raise InputError(f"model {self.spec.name}: {len(tokens)} tokens, its context holds {self.max_tokens}")
        return [Encoded(np.array(tokens), np.array(residue))]

    # -- reading: hidden states and likelihoods ------------------------------------------------------------------

    def hook_name(self, layer: int) -> str:
        """Module whose output is the residual stream after block `layer`."""
        self._check_layer(layer)
        return f"{self.hook_prefix}.{layer - 1}"

    def _check_layer(self, layer: int) -> None:
        if not 1 <= layer <= self.n_layers:
            raise InputError(f"layer {layer}: model {self.spec.name} has layers 1 to {self.n_layers}")

    @contextmanager
    def hooked(self, layer: int, change: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Call `change` on the residual stream after block `layer`; what it returns, if anything, goes on."""
        self._check_layer(layer)

        def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            changed = change(hidden)
            if changed is None:
                return output
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = self.blocks[layer - 1].register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _batches(self, passages: Sequence[Encoded], tokens_a_batch: int = 2048) -> Iterator[tuple[list[int], Tensor]]:
        """Indices and right-padded tokens [batch, T], sorted by length so that little is padding."""
        order = sorted(range(len(passages)), key=lambda i: len(passages[i].tokens))
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * len(passages[order[stop]].tokens) <= tokens_a_batch:
                stop += 1
            indices = order[start:stop]
            padded = np.zeros((len(indices), len(passages[indices[-1]].tokens)), dtype=np.int64)
            for row, i in enumerate(indices):
                padded[row, : len(passages[i].tokens)] = passages[i].tokens
            yield indices, torch.from_numpy(padded).to(self.device)
            start = stop

    @torch.inference_mode()
    def hidden(self, passages: Sequence[Encoded], layers: Sequence[int]) -> Iterator[tuple[int, dict[int, Tensor]]]:
        """Residual stream of every residue, tags left out, one passage at a time in order of length.

        Yields (index of the passage, {layer: [n_residues, d_model] on the CPU}); blocks after the last layer asked
        for are not run.
        """
        for layer in layers:
            self._check_layer(layer)
        base: Any = self.hf.base_model
        seen: dict[int, Tensor] = {}
        last = max(layers)

        def keep(module: nn.Module, inputs: Any, output: Any, layer: int) -> None:
            seen[layer] = output[0] if isinstance(output, tuple) else output
            if layer == last:
                raise _Stop

        handles = [
            self.blocks[n - 1].register_forward_hook(lambda m, i, o, n=n: keep(m, i, o, n)) for n in sorted(layers)
        ]
        try:
            for indices, tokens in self._batches(passages):
                with suppress(_Stop):
                    base(input_ids=tokens, use_cache=False)
                for row, i in enumerate(indices):
                    at = torch.from_numpy(np.flatnonzero(passages[i].residue >= 0)).to(self.device)
                    yield i, {n: seen[n][row].index_select(0, at).cpu() for n in layers}
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, tokens: Tensor, layer: int | None = None, states: Tensor | None = None) -> Tensor:
        """[batch, T, vocabulary] of right-padded tokens [batch, T]; can be differentiated. Where the residual stream
        after block `layer` is known (states [batch, T, d_model]), only the blocks after it are run."""
        known = layer is not None and states is not None and layer < self.n_layers and not self.spec.remote_code
        with self._after(layer, states) if known else nullcontext():  # type: ignore[arg-type]
            logits: Tensor = self.hf(input_ids=tokens, use_cache=False).logits
        return logits

    @contextmanager
    def _after(self, layer: int, states: Tensor) -> Iterator[None]:
        """Passes leave out the blocks up to `layer`, whose output is `states`."""
        parent, _, name = self.hook_prefix.rpartition(".")
        rest = self.blocks[layer:]
        handle = rest[0].register_forward_pre_hook(lambda module, inputs: (states, *inputs[1:]))
        setattr(self.hf.get_submodule(parent), name, rest)
        try:
            yield
        finally:
            setattr(self.hf.get_submodule(parent), name, self.blocks)
            handle.remove()

    def logits_and_states(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [batch, T, vocabulary] and, to differentiate them by, the residual stream [batch, T, d_model] after
        each block, from the first block on."""
        states: list[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            states.append(hidden if hidden.requires_grad else hidden.detach().requires_grad_())
            return (states[-1], *output[1:]) if isinstance(output, tuple) else states[-1]

        handles = [block.register_forward_hook(keep) for block in self.blocks]
        try:
            with torch.enable_grad():
                return self.logits(tokens), states
        finally:
            for handle in handles:
                handle.remove()

    @torch.inference_mode()
    def next_token_logits(
        self, passages: Sequence[Encoded], layer: int | None = None, edit: Edit | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Yields (index of the passage, float32 logits [T, vocabulary]) in order of length, with an optional edit."""
        for indices, tokens in self._batches(passages):
            if edit is None or layer is None:
                logits = self.logits(tokens)
            else:
                rows = torch.tensor(indices, device=self.device)
                with self.hooked(layer, lambda hidden, tokens=tokens, rows=rows: edit(hidden, tokens, rows)):  # type: ignore[misc]
                    logits = self.logits(tokens)
            if not torch.isfinite(logits).all():
                raise InputError(
                    f"model {self.spec.name}: its output is not finite; choose a smaller strength or float32"
                )
            for row, i in enumerate(indices):
                yield i, logits[row, : len(passages[i].tokens)].float()

    def log_likelihood(
        self, passages: Sequence[Encoded], layer: int | None = None, edit: Edit | None = None
    ) -> np.ndarray:
        """[n] mean log-likelihood (nats) per residue and stop token; perplexity = exp(-that)."""
        values = np.empty(len(passages))
        for i, logits in self.next_token_logits(passages, layer, edit):
            tokens = torch.from_numpy(passages[i].tokens).to(logits.device)
            predicted = np.flatnonzero(passages[i].residue >= 0)[0]  # first residue: everything from it on is written
            log_p = logits[predicted - 1 : -1].log_softmax(-1)
            values[i] = log_p.gather(1, tokens[predicted:, None]).mean().item()
        return values

    @torch.inference_mode()
    def logit_lens(self, directions: Tensor) -> Tensor:
        """[m, 20] logits of the residues (alphabetical) for residual directions [m, d_model]: final norm and head."""
        ids = torch.tensor([self.residue_tokens[r] for r in RESIDUES], device=self.device)
        normed = self._final_norm(directions.to(self.device, self.dtype))
        logits: Tensor = self.head(normed)
        return logits[:, ids].float().cpu()

    def likelihood_gradients(
        self, layer: int, tokens: Tensor, acted: Tensor, weights: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        """[batch, d_model] gradients of sum over t of w[t] log p(token t) with respect to a vector added after block
        `layer` where acted [batch, T] is 1; one for each w [batch, T] in `weights`."""
        with torch.enable_grad():
            vector = torch.zeros(len(tokens), 1, self.d_model, device=self.device, requires_grad=True)
            added = acted[..., None]
            with self.hooked(layer, lambda hidden: (hidden.float() + added * vector).to(hidden.dtype)):
                logits = self.logits(tokens)[:, :-1].float()
            log_p = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
            for i, weight in enumerate(weights):
                last = i + 1 == len(weights)
                (gradient,) = torch.autograd.grad((log_p * weight[:, 1:]).sum(), vector, retain_graph=not last)
                yield gradient[:, 0].detach()

    # -- writing -------------------------------------------------------------------------------------------------

    def cache(self, length: int) -> Cache | None:
        """Empty keys and values for up to `length` tokens a row; None where the model brings its own."""
        if self.spec.remote_code:  # code from outside may know only its own cache
            return None
        return Cache(layers=[buffer.start(length) for buffer in self._buffers])

    def generate(self, n: int, **options: Any) -> list[generation.Generated]:
        """See generation.generate."""
        return generation.generate(self, n, **options)


def load(model: ModelSection | DrawnModel) -> AntibodyModel:
    """Load what a config's `model:` section names (keys: name, path, template, dtype, device, revision, remote_code),
    or the same with random weights, of a section made by `presets.drawn`.

    Raises InputError that says how to get weights that are not there.
    """
    spec = resolve(model)
    device = model.get("device", "auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = model.get("dtype", "auto")
    dtype = getattr(torch, hardware.fast_dtype(device) if wanted == "auto" else wanted)
    hf, vocabulary = _load_packaged(spec) if spec.packaged else _load_checkpoint(spec)
    seed = drawn_with(model)
    if seed is not None:
        _draw_weights(hf, seed)
    hf = hf.to(device=device, dtype=dtype).eval().requires_grad_(False)
    if not spec.remote_code:
        hf.set_attn_implementation(attention.NAME)
    folder = Path(spec.checkpoint)
    weights = sorted(p for p in folder.glob("*") if p.suffix in {".safetensors", ".bin"} and "training" not in p.name)
    if seed is not None:
        weights = []
    readable = json.dumps([sorted(vocabulary.items()), sorted(spec.templates.items())])
    provenance = {
        "model": known_as(model),
        "revision": spec.revision or getattr(hf.config, "_commit_hash", None),
        "weights_sha256": [sha256_file(p) for p in weights] if weights else _hash_weights(hf),
        "tokenizer_sha256": hashlib.sha256(readable.encode()).hexdigest(),
    }
    if isinstance(provenance["weights_sha256"], list):
        joined = "".join(provenance["weights_sha256"])
        provenance["weights_sha256"] = hashlib.sha256(joined.encode()).hexdigest()
    return AntibodyModel(spec, hf, vocabulary, provenance)


def _draw_weights(hf: Any, seed: int) -> None:
    """Draw every weight anew, embeddings too, as the model's class does before training (GPT-2: normal with the
    config's initializer_range, .02, the blocks' output projections by 1 / sqrt(2 layers) of it; biases 0, norms 1)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf.load_state_dict(type(hf)(hf.config).state_dict())


def _hash_weights(hf: nn.Module) -> str:
    """SHA-256 over the parameters, where no file holds them or it lies in a hub's cache."""
    digest = hashlib.sha256()
    for name, value in sorted(hf.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_packaged(spec: ModelSpec) -> tuple[Any, dict[str, int]]:
    """IgLM from its package. BertTokenizerFast on its vocab.txt gives wrong ids under transformers 5, so the 33
    tokens are mapped by line number; weights_only keeps the .bin from running code."""
    folder = Path(spec.checkpoint)
    config = transformers.GPT2Config.from_pretrained(
        folder, bos_token_id=None, eos_token_id=None, activation_function="gelu_pytorch_tanh"
    )  # the checkpoint's own tanh GELU by its other name
    hf = transformers.GPT2LMHeadModel(config)
    blocks: Any = hf.transformer.h
    for block in blocks:
        block.mlp.act = attention.Gelu()
    state = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    state = {k: v for k, v in state.items() if not k.endswith((".attn.bias", ".attn.masked_bias"))}  # causal masks
    hf.load_state_dict(state, strict=False)
    missing = set(hf.state_dict()) - set(state) - {"lm_head.weight"}
    if missing:
        raise InputError(f"{folder}: weights lack {sorted(missing)[:3]}; reinstall iglm==0.1.0")
    lines = (folder.parent / "vocab.txt").read_text(encoding="utf-8").split()
    return hf, {token: i for i, token in enumerate(lines)}


def _load_checkpoint(spec: ModelSpec) -> tuple[Any, dict[str, int]]:
    options: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": spec.remote_code}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(spec.checkpoint, **options)
        hf = transformers.AutoModelForCausalLM.from_pretrained(
            spec.checkpoint, use_safetensors=True, dtype=torch.float32, **options
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"model {spec.name}: {spec.checkpoint!r} could not be loaded ({str(error).splitlines()[0]}). On a machine "
            f"that reaches the hub run `hf download {spec.checkpoint} --local-dir DIR`, then set model.path: DIR "
            "(weights must be safetensors)"
        ) from error
    return hf, dict(tokenizer.get_vocab())
