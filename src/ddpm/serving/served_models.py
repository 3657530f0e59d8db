"""The models that a server answers with: the one that it serves, which may follow the champion, and one beside it.

At most three models are in memory: the served one, a new champion while it is loaded, and one other version, which
requests name to be compared with the served one. It is replaced when the calls that use it have ended.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.promotion.registry import CANARY, ORIGIN, RECORDS, Registry, Version, champion_among
from ddpm.serving.answering import Answering, Identity
from ddpm.serving.calls import INVALID, Bounds, Budget, Call, RefusedError
from ddpm.serving.shadow import Shadow
from ddpm.serving.watching import Watching

LOOK_SECONDS = 10.0
"""Time between two looks at the registry."""
RETRY_SECONDS = 300.0
"""Time until a champion that could not be loaded is tried again."""
_WAIT_SECONDS = 0.1
"""Time between two looks whether a call that waits for its version has ended."""


@dataclass(frozen=True)
class Served:
    """A loaded model and what it is."""

    answering: Answering
    name: str
    """Name of the registered model, or of the file."""
    version: Version | None = None
    """None: a file without a registry."""
    watching: Watching | None = None

    @property
    def number(self) -> str | None:
        return None if self.version is None else self.version.number

    @property
    def called(self) -> str:
        return self.name if self.version is None else f"{self.name} version {self.number}"


class ServedModels:
    """The served model, and the other versions of its registry. Can be used from any thread."""

    def __init__(
        self,
        model: Model,
        name: str,
        bounds: Bounds,
        *,
        version: Version | None = None,
        registry: Registry | None = None,
        load: Callable[[Version], Model] | None = None,
        follows: bool = False,
        watch: Callable[[Version, Answering], Watching | None] = lambda version, answering: None,
        shadow: Shadow | None = None,
    ) -> None:
        """Serve this model; without a registry it is the only one.

        `load` returns the model of a version or raises UserError. With `follows` a new champion takes over, otherwise
        `notice` says that there is one. `watch` begins the watch over the answers of a version that becomes the served
        one, and `shadow` draws its requests again.
        """
        self._budget, self._registry, self._load, self._follows = Budget(bounds), registry, load, follows
        self._watch, self.shadow = watch, shadow
        if shadow is not None:
            shadow.beside(lambda: self.running_work > 0)
        version = None if version is None else _with_documents(version)
        self.current = self._watched(Served(self._answering(model, name, version), name, version))
        """The model that answers requests which name no version."""
        self.notice: str | None = None
        """One sentence if the served model is not the champion, or if nothing is known about that."""
        self.versions: list[Version] = [] if version is None else [version]
        """The versions in the registry, newest first, as last seen."""
        self._other: Served | None = None
        self._calls_of_other = 0
        """The number of calls that use the other version. It rises only while `_loading` is held."""
        self._counting, self._loading = threading.Lock(), threading.Lock()
        self._failed: tuple[str, float] | None = None
        """The champion that could not be loaded, and when to try again."""
        self._logged = ""
        self.is_ready = False
        """Whether the served model has drawn an image (`warm_up`)."""

    def warm_up(self) -> None:
        """Let the served model draw its first image, which takes longer than later ones; then this server is ready."""
        try:
            self.current.answering.warm_up()
        except Exception as error:  # the server answers, and says that it is not ready
            self._say(f"{self.current.called} cannot draw an image (see the server's log)", because=error)
            return
        self.is_ready = True

    @property
    def running_work(self) -> int:
        """Network evaluations times pixels of the running calls."""
        return self._budget.work

    @property
    def champion(self) -> str | None:
        """The champion's number, as last seen."""
        found = champion_among(self.versions)
        return None if found is None else found.number

    @property
    def follows(self) -> bool:
        return self._follows

    @contextmanager
    def named(self, number: Any, call: Call | None = None) -> Iterator[Served]:
        """Yield the version with this number, loaded if needed; None is the served model.

        The call waits until calls that use another version have ended. Raises RefusedError.
        """
        current = self.current
        if number is None or number == current.number:
            yield current
            return
        found = next((version for version in self.versions if version.number == number), None)
        if found is None:
            there = ", ".join(version.number for version in self.versions) or "none, because a file is served"
            raise RefusedError(INVALID, f"version is {number!r}, expected one of: {there}")
        other = self._begin(found, call)
        try:
            yield other
        finally:
            with self._counting:
                self._calls_of_other -= 1

    def _begin(self, found: Version, call: Call | None) -> Served:
        """Return this version, loaded beside the served one, and count the call that uses it."""
        while not self._loading.acquire(timeout=_WAIT_SECONDS):
            _require_time(call)
        try:
            if self._other is None or self._other.number != found.number:
                self._forget_other(call)
                try:
                    self._other = self._loaded(found)
                except Exception:  # also without memory or space on the disk
                    logging.getLogger(__name__).exception("version %s could not be loaded", found.number)
                    raise RefusedError(
                        INVALID, f"version {found.number} could not be loaded, choose another; see the server's log"
                    ) from None
            with self._counting:
                self._calls_of_other += 1
            return self._other
        finally:
            self._loading.release()

    def _forget_other(self, call: Call | None = None) -> None:
        """Free the memory of the other version when the calls that use it have ended; needs `_loading`."""
        while self._calls_of_other:
            _require_time(call)
            time.sleep(_WAIT_SECONDS)
        self._other = None

    def follow(self, *, every: float = LOOK_SECONDS) -> None:
        """Warm up, and look at the registry now and then, in threads that end with the process."""
        threading.Thread(target=self.warm_up, daemon=True, name="warm up").start()
        if self._registry is not None:
            threading.Thread(target=self._look_for_ever, args=(every,), daemon=True, name="follow").start()

    def look(self) -> None:
        """Look at the registry once, and take over a new champion if this server follows it."""
        assert self._registry is not None
        try:
            self.versions = [_with_documents(found) for found in self._registry.versions()]
        except Exception as error:  # a registry can fail in many ways; the served model goes on
            self._say(f"the registry did not answer at {time.strftime('%H:%M:%S')}; {self._stays}", because=error)
            return
        champion = champion_among(self.versions)
        if champion is None:
            self._say(f"{self.current.name} has no champion now; {self._stays}")
        elif champion.number == self.current.number:
            self.current = replace(self.current, version=champion)  # its aliases may be new
            self.notice = self._failed = None
        elif not self._follows:
            self._say(
                f"version {champion.number} is the champion now; this server was started with version "
                f"{self.current.number} and stays with it until it is started again"
            )
        elif self._failed is None or self._failed[0] != champion.number or time.monotonic() > self._failed[1]:
            self._take_over(champion)

    def _take_over(self, champion: Version) -> None:
        """Load the new champion beside the served model, and then serve it. Running calls finish with the old one."""
        self.notice = f"version {champion.number} is the champion and is being loaded; {self._stays} until then"
        with self._loading:
            self._forget_other()
            try:
                new = self._loaded(champion)
                new.answering.warm_up()
            except Exception as error:  # also without memory: the served model must go on
                self._failed = (champion.number, time.monotonic() + RETRY_SECONDS)
                self._say(
                    f"version {champion.number} is the champion but could not be loaded (see the server's log); "
                    f"{self._stays}",
                    because=error,
                )
                return
        before, self.current = self.current, self._watched(new)
        if before.watching is not None:
            before.watching.end()
        self.notice, self._failed, self.is_ready = None, None, True
        print(f"{new.called} is the champion and answers from now on, in place of version {before.number}", flush=True)

    def _look_for_ever(self, every: float) -> None:
        while True:
            self.look()
            time.sleep(every)

    def _loaded(self, version: Version) -> Served:
        assert self._load is not None
        return Served(self._answering(self._load(version), version.name, version), version.name, version)

    def _watched(self, served: Served) -> Served:
        if served.version is None:
            return served
        if self.shadow is not None:
            served.answering.listeners.append(partial(self.shadow.drew, served.version.number))
        return replace(served, watching=self._watch(served.version, served.answering))

    def _answering(self, model: Model, name: str, version: Version | None) -> Answering:
        number = None if version is None else version.number
        return Answering(model, self._budget, Identity(None if version is None else name, number))

    @property
    def _stays(self) -> str:
        return f"version {self.current.number} still answers"

    def _say(self, sentence: str, *, because: Exception | None = None) -> None:
        """Set the notice, and log it once for each thing to say. Clients see the sentence, only the log the reason."""
        topic = sentence.split(" at ")[0]  # without the time
        if topic != self._logged:
            reason = "" if because is None else f" ({type(because).__name__}: {because})"
            logging.getLogger(__name__).warning("%s%s", sentence, reason)
        self.notice, self._logged = sentence, topic


def _require_time(call: Call | None) -> None:
    if call is not None:
        call.require_time()


def _with_documents(version: Version) -> Version:
    """Return the version with the documents that the page shows, so that showing it does not wait for the registry."""
    documents = {}
    tags = version.tags
    for name in {tags.get(RECORDS, "").partition(" ")[0], tags.get(ORIGIN, ""), tags.get(CANARY, "")} - {""}:
        with suppress(UserError):
            documents[name] = version.read(name)

    def read(name: str) -> dict[str, Any]:
        if name not in documents:
            raise UserError(f"document {name} of version {version.number} was not read")
        return documents[name]

    return replace(version, read=read)
