"""The bundles that a server answers with: loaded on demand, within one budget."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekit.bundle import manifest
from edgekit.bundle.layout import MANIFEST
from edgekit.errors import BudgetError, RuntimeFailure
from edgekit.generate.embedding import Embedder
from edgekit.generate.grammar import Grammar, compile_grammar
from edgekit.generate.reuse import depends_on_length, shared_tokens
from edgekit.generate.tokenizer import Tokenizer
from edgekit.runtime.model import Model, plan_bundle
from edgekit.runtime.session import Session
from edgekit.runtime.values import Options
from edgekit.serve.prefix_cache import LEAST, PrefixCache, can_keep
from edgekit.serve.prefix_folder import PrefixFolder
from edgekit.serve.run import Run
from edgekit.sizes import parse_bytes
from edgekit.verify import check_files

if TYPE_CHECKING:
    from edgekit.pictures.sight import Sight
    from edgekit.serve.pictures import Eyes

F32 = npt.NDArray[np.float32]
LEAST_COPIED = 16  # tokens that a copy from another session must save
MOST_CONTEXT = 2048  # tokens, where no other context is asked for; as in the runtime


@dataclass(frozen=True)
class Bundle:
    """A bundle by its name: what requests need before its weights are loaded.

    Attributes:
        id: its name in the API.
        path: its folder.
        context: most tokens of prompt and text together.
    """

    id: str
    path: Path
    context: int
    created: int = field(default_factory=lambda: int(time.time()))

    @cached_property
    def model(self) -> dict[str, Any]:
        """The model, as the manifest describes it."""
        found: dict[str, Any] = manifest.read(self.path).data["model"]
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""
        return Tokenizer(self.path / "tokenizer")

    @cached_property
    def embedder(self) -> Embedder:
        """What turns texts into the tokens that vectors and scores are made of."""
        return Embedder(manifest.read(self.path).data, self.tokenizer, self.context)

    @property
    def sees(self) -> bool:
        """Whether it reads pictures."""
        return "pictures" in self.model

    @cached_property
    def sight(self) -> Sight:
        """What it sees with."""
        from edgekit.pictures.sight import Sight

        return Sight(self.path, self.model)

    @property
    def output(self) -> str:
        """What the model gives: "logits", "embedding" or "score"."""
        return str(self.model.get("output", "logits"))

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        return int(self.model["vocab_size"])

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        return tuple(self.model.get("eos_token_ids", ()))

    def grammar(self, kind: str, text: str | dict[str, Any]) -> Grammar:
        """What a text must be; see `compile_grammar`."""
        return compile_grammar(kind, text, self.path / "tokenizer", self.vocab_size, self.eos_token_ids)


def open_bundle(path: Path, context: int) -> Bundle:
    """Reads what requests need of a bundle.

    Raises:
        BundleError: not a bundle, or damaged.
    """
    found = manifest.read(path).data
    check_files(path, found, "tokenizer/")
    model = found["model"]
    usual = MOST_CONTEXT if model.get("output", "logits") == "logits" else model["pooling"]["max_length"]
    context = min(context or usual, model["max_context"])
    bundle = Bundle(path.resolve().name.removesuffix(".edgekit"), path, context)
    _ = bundle.tokenizer  # damage shows at the start, not at the first request
    return bundle


@dataclass
class Slot:
    """A session, and what it is used for.

    Attributes:
        run: what it does; None while it is free. A free session keeps its tokens: the prefix cache.
        used: when it was last given out or back, of a clock that counts.
        kept: whether the prefix cache on flash has been offered its tokens since.
    """

    session: Session
    run: Run | None = None
    used: int = 0
    kept: bool = True


class Loaded:
    """A bundle whose weights are open, with a fixed number of sessions."""

    def __init__(self, bundle: Bundle, options: Options, folder: PrefixFolder | None = None) -> None:
        """Opens it. `folder`: of the prefix cache on flash.

        Raises:
            BudgetError: the budget does not hold it.
        """
        self.bundle = bundle
        self.eyes = _eyes(bundle, options)
        self.model = Model(bundle.path, self._less(options))
        try:
            self.slots = [Slot(self.model.create_session()) for _ in range(options.sessions)]
        except BaseException:
            self.model.close()
            raise
        self.whole_prompt = depends_on_length(bundle.model)
        self.used = 0
        self._flash: PrefixCache | None = None
        if folder is not None and can_keep(bundle.model, self.model.plan.select):
            path = bundle.path / MANIFEST
            self._flash = PrefixCache(folder, path, bundle.model, self.model, options)

    def _less(self, options: Options) -> Options:
        """The options of the decoder alone, and without them what is set aside for the encoder of pictures."""
        ram = parse_bytes(options.ram)
        return replace(options, ram=max(1, ram - self.eyes.reserved)) if self.eyes is not None and ram else options

    @property
    def budget(self) -> int:
        """What it may use, the encoder of pictures included."""
        return self.model.plan.budget_bytes + (self.eyes.reserved if self.eyes is not None else 0)

    def set_budget(self, ram: int) -> None:
        """Changes that; 0: no limit. While the encoder is open, its part stays as it is.

        Raises:
            BudgetError: as `Model.set_budget`.
        """
        if self.eyes is None or self.eyes.busy:
            self.model.set_budget(max(1, ram - self.eyes.reserved) if self.eyes is not None and ram else ram)
            return
        before, self.eyes.reserved = self.eyes.reserved, self.eyes.share(ram)
        try:
            self.model.set_budget(max(1, ram - self.eyes.reserved) if ram else 0)
        except BudgetError:
            self.eyes.reserved = before
            raise

    def look(self, pictures: tuple[bytes, ...]) -> Generator[F32, None, None] | None:
        """The rows of pictures, tile by tile; None without any."""
        return self.eyes.look(pictures) if pictures and self.eyes is not None else None

    @property
    def busy(self) -> bool:
        """Whether a session is in use."""
        return any(slot.run is not None for slot in self.slots)

    def free_slot(self, ids: tuple[int, ...]) -> Slot | None:
        """The free session that has most of a prompt already, of those the one that was used longest ago."""
        free = [slot for slot in self.slots if slot.run is None]
        if not free:
            return None
        return max(free, key=lambda slot: (_shared(slot.session, ids), -slot.used))

    def take_beginning(self, slot: Slot, ids: tuple[int, ...]) -> None:
        """Gives a session the beginning of a prompt, from another session or from flash, if that is worth it. What it
        loses is saved."""
        if self.whole_prompt:
            return
        if not slot.kept and len(slot.session.tokens) - _shared(slot.session, ids) >= LEAST:
            self._keep(slot)
        self._share_beginning(slot, ids)
        if self._flash is not None and self._flash.gain(slot.session, ids):
            self._flash.load(slot.session, ids)

    def _keep(self, slot: Slot) -> None:
        slot.kept = True
        if self._flash is not None and not slot.session.given:  # sessions with pictures are not saved
            self._flash.save(slot.session)

    def keep_one(self) -> bool:
        """Saves a session that is free, if there is one that was not; for when there is nothing else to do."""
        slot = next((s for s in self.slots if s.run is None and not s.kept), None)
        if slot is not None:
            self._keep(slot)
        return slot is not None

    def _share_beginning(self, slot: Slot, ids: tuple[int, ...]) -> None:
        """Copies from the session that has most of the prompt, busy or not."""
        own = _shared(slot.session, ids)
        found = {id(other): _shared(other.session, ids) for other in self.slots}
        best = max(self.slots, key=lambda other: found[id(other)])
        if found[id(best)] < own + LEAST_COPIED:
            return
        with suppress(RuntimeFailure):  # windows or selections of neurons: the prompt is evaluated
            slot.session.copy_from(best.session, found[id(best)])

    def close(self) -> None:
        """Frees the memory; what its sessions hold is saved."""
        for slot in self.slots:
            if not slot.kept:
                self._keep(slot)
        if self.eyes is not None:
            self.eyes.close()
        self.model.close()


def _shared(session: Session, ids: tuple[int, ...]) -> int:
    """Tokens that a session has of a prompt, before any picture: which one that is, its tokens do not say."""
    shared = shared_tokens(session.tokens, ids)
    return min([shared, *(given.begin for given in session.given)])


def _eyes(bundle: Bundle, options: Options) -> Eyes | None:
    if not bundle.sees:
        return None
    from edgekit.serve.pictures import Eyes

    return Eyes(bundle.sight, options, plan_bundle(bundle.path, replace(options, ram=None)).floor_bytes)


class Bundles:
    """All bundles of a server and those that are loaded. Used by the scheduler's thread, but for `known`.

    Without a budget, each is loaded whole when it is first asked for, and stays. With one, those that are loaded share
    it evenly; when there is too little for another, the one that was used longest ago leaves.
    """

    def __init__(self, bundles: list[Bundle], options: Options, folder: PrefixFolder | None = None) -> None:
        """`options`: how to open each; `ram` holds for all together. `folder`: of the prefix cache on flash.

        Raises:
            RuntimeFailure: two have the same name.
            BudgetError: the budget does not hold the least of one of them.
        """
        self.known = {bundle.id: bundle for bundle in bundles}
        if len(self.known) < len(bundles):
            raise RuntimeFailure(
                "two bundles have the same name; rename a folder, as the name is the model's in the API"
            )
        self.ram = parse_bytes(options.ram)
        self._options, self.folder = options, folder
        self.loaded: dict[str, Loaded] = {}
        self._clock = 0
        self._floors = {b.id: self._floor_of(b, options.ram) for b in bundles}

    def _floor_of(self, bundle: Bundle, ram: str | int | None) -> int:
        """The least budget: of the decoder, and of the encoder of pictures beside it."""
        options = self._options_of(bundle, ram)
        encoder = bundle.sight.needs(options)[0] if bundle.sees and ram else 0
        if not encoder:
            return plan_bundle(bundle.path, options).floor_bytes
        try:
            decoder = replace(options, ram=max(1, parse_bytes(ram) - encoder))
            return plan_bundle(bundle.path, decoder).floor_bytes + encoder
        except BudgetError as error:
            raise BudgetError(
                f"{bundle.path}: {error}; its encoder of pictures needs {encoder} bytes besides, or convert --text-only"
            ) from error

    def _options_of(self, bundle: Bundle, ram: str | int | None) -> Options:
        rows = bundle.sight.least_batch if bundle.sees else 0
        return replace(self._options, context=bundle.context, ram=ram, least_batch=rows)

    def tick(self) -> int:
        """The next number of the clock that says what was used longest ago."""
        self._clock += 1
        return self._clock

    def get(self, name: str) -> Loaded | None:
        """A bundle's weights and sessions, loaded if need be; None if what is in use leaves no room now.

        Raises:
            EdgekitError: it cannot be loaded.
        """
        if name not in self.loaded and not self._load(self.known[name]):
            return None
        found = self.loaded[name]
        found.used = self.tick()
        return found

    def _load(self, bundle: Bundle) -> bool:
        if not self.ram:
            self.loaded[bundle.id] = Loaded(bundle, self._options_of(bundle, None), self.folder)
            return True
        while not self._make_room(bundle):
            idle = [m for m in self.loaded.values() if not m.busy]
            if not idle:
                return False
            leaving = min(idle, key=lambda m: m.used)
            leaving.close()
            del self.loaded[leaving.bundle.id]
        return True

    def _make_room(self, bundle: Bundle) -> bool:
        """Tries to load a bundle beside what is loaded; the others then have less."""
        share = self.ram // (len(self.loaded) + 1)
        floors = [self._floors[name] for name in (*self.loaded, bundle.id)]
        if sum(floors) > self.ram:
            return False
        spare = (self.ram - sum(floors)) // len(floors)
        try:
            for name, other in self.loaded.items():
                other.set_budget(max(self._floors[name], min(share, self._floors[name] + spare)))
            left = self.ram - sum(m.budget for m in self.loaded.values())
            self.loaded[bundle.id] = Loaded(bundle, self._options_of(bundle, left), self.folder)
        except BudgetError:
            if not self.loaded:
                raise
            return False
        return True

    def set_ram(self, ram: int) -> None:
        """Changes the budget of all together; those that are loaded share it anew.

        Args:
            ram: bytes; 0 for no limit.

        Raises:
            BudgetError: less than they need; nothing has changed.
        """
        before = {name: other.budget for name, other in self.loaded.items()}
        floors = [self._floors[name] for name in self.loaded]
        if ram and ram < max(sum(floors), *self._floors.values()):
            least = max(sum(floors), *self._floors.values())
            raise BudgetError(f"a budget of {ram} bytes is too small: the models need at least {least} bytes")
        spare = (ram - sum(floors)) // len(floors) if ram and floors else 0
        wanted = {name: self._floors[name] + spare if ram else 0 for name in self.loaded}
        # First those that give memory back.
        order = sorted(wanted, key=lambda name: (wanted[name] or math.inf) - before[name])
        try:
            for name in order:
                self.loaded[name].set_budget(wanted[name])
        except BudgetError:
            for name in reversed(order):
                self.loaded[name].set_budget(before[name])
            raise
        self.ram = ram

    def keep_one(self) -> bool:
        """Saves one free session to the prefix cache on flash; False if all are saved."""
        return self.folder is not None and any(m.keep_one() for m in self.loaded.values())

    def floor(self, name: str) -> int:
        """The least budget of a bundle, in bytes."""
        return self._floors[name]

    def close(self) -> None:
        """Frees everything."""
        for model in self.loaded.values():
            model.close()
        self.loaded.clear()
        if self.folder is not None:
            self.folder.close()
