"""What the guard does with a request: the site's settings, the policy's decision, the ledger."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedmed import __version__, models
from fedmed.base.errors import RunError, UserError
from fedmed.config import ARMS, Settings
from fedmed.data.pools import path_of
from fedmed.data.remembering import forget
from fedmed.federation import exchange
from fedmed.federation.exchange import Buffers
from fedmed.hospital import histograms, hospital
from fedmed.hospital.guard import caches
from fedmed.hospital.guard.counting import Requests
from fedmed.hospital.guard.sums import GuardSums
from fedmed.hospital.refusals import Refusal, ledger_failures, refusing
from fedmed.hospital.terms import Site, Terms, in_sum, review, terms_for
from fedmed.privacy.ledger.deciding import decide, request_for
from fedmed.privacy.ledger.filtering import Charge
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy, read_policy
from fedmed.privacy.plans import FeaturePlan, ImagePlan, part
from fedmed.privacy.plans.evaluation import ledger_run
from fedmed.privacy.plans.making import noise_source
from fedmed.site import own_settings
from fedmed.site.arrays import write_arrays
from fedmed.site.file import SiteFile
from fedmed.site.requests import Request, read_request
from fedmed.site.settings import Both, site_settings
from fedmed.site.wire import BadFrame, check_header
from fedmed.training.released_features import release_name

log = logging.getLogger("fedmed.guard")

_UNSAID: Final[dict[str, Any]] = {"loss": None, "images": None}  # beside a noised update
_A_LINE_EACH: Final = 60.0  # seconds between two lines about too many requests

Frame = tuple[dict[str, Any], bytes]


@dataclass
class Guard:
    """One site's guard, whatever brings its frames; it answers one at a time.

    Of what a request gets, only numbers under noise depend on data: every refusal comes from the
    request, the policy, the ledger and declared sizes, but for the one code ``data``.
    """

    site: SiteFile
    policy: Policy
    ledger: Ledger
    requests: Requests
    _last: Settings | None = field(default=None, repr=False)
    _buffers: Buffers = field(default_factory=Buffers, repr=False)
    _told_of_too_many: float = field(default=-math.inf, repr=False)
    _sums: GuardSums = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._sums = GuardSums(self.site)

    @classmethod
    def open(cls, site: SiteFile) -> "Guard":
        """The guard of a site; raises where policy or ledger would make it no guard."""
        policy = read_policy(site.policy)
        _check(policy, site)
        ledger, requests = Ledger(site.ledger, site.audit), Requests(policy)
        if ledger.path.exists() or ledger.log.path.exists():
            ledger.verify()
            requests.remember(ledger.log.entries())
        return cls(site, policy, ledger, requests)

    def status(self) -> Frame:
        """Whether the guard could answer now: policy, ledger and log are there and can be read.

        Asked by health checks, beside whatever is being answered; nothing is written.
        """
        try:
            read_policy(self.site.policy)
            self.ledger.log.last()
            self.ledger.state("")
        except (RunError, UserError) as error:
            log.error("%s", error)
            return _error("ledger")
        return {"hospital": self.site.name, "version": __version__}, b""

    def answer(self, header: dict[str, Any], body: bytes, peer: int) -> Frame:
        """The frame that goes back; whatever goes wrong, only a code does.

        Request and outcome are on the disk, in the audit log, before anything leaves.
        """
        try:
            request = read_request(header, body)
            if request.kind == "status":
                return self.status()
            if request.kind != "app":
                if not self.requests.room(request.run):
                    return self._too_many(request, peer)
                self.requests.asked(request.run)
            about: dict[str, Any] = {"kind": request.kind, "peer": peer}
            about |= {"run": request.run, "run-id": request.run_id} if request.run else {}
            about |= {"round": request.round_number} if request.kind == "train" else {}
            about |= {"phase": request.phase} if request.phase else {}
            about |= {"app": request.app} if request.app else {}
            arm = request.config.get("privacy.arm", "")
            about |= {"arm": str(arm)[:40]} if arm else {}
            self.ledger.note("request", **about)
        except BadFrame as error:
            return self.refuse("frame", peer=peer, reason=str(error))
        except (RunError, UserError) as error:
            log.error("%s", error)
            return _error("ledger")
        about.pop("arm", None)
        try:
            reply, arrays, told = self._outcome(request)
            # An order that sets or sums left behind could tell something.
            arrays = {name: arrays[name] for name in sorted(arrays)}
            packed = write_arrays(arrays) if arrays else b""
            if arrays:
                reply["arrays"] = {"bytes": len(packed), "names": list(arrays)}
            check_header(reply)
        except Refusal as refusal:
            code = refusal.code
        except MemoryError:
            code = "memory"
        except Exception as error:
            # The text of an exception can hold data: its kind alone is logged.
            log.error("a request failed: %s", type(error).__name__)
            code = "internal"
        else:
            try:
                self.ledger.note("answered", **about, **told, bytes=len(packed))
            except (RunError, UserError) as error:
                log.error("%s", error)
                return _error("ledger")
            return reply, packed
        if code == "data":
            self.requests.refused()
        return self.refuse(code, **about)

    def refuse(self, code: str, **about: Any) -> Frame:
        """A refusal, with its line in the audit log; the code leaves even where that fails."""
        log.warning("refused: %s %s", code, about)
        try:
            self.ledger.note("refused", code=code, **about)
        except (RunError, UserError) as error:
            log.error("%s", error)
        return _error(code)

    def _too_many(self, request: Request, peer: int) -> Frame:
        """Beyond the policy's number of requests: a line a minute, so that no log grows by them."""
        if time.monotonic() - self._told_of_too_many < _A_LINE_EACH:
            return _error("requests")
        self._told_of_too_many = time.monotonic()
        return self.refuse("requests", kind=request.kind, peer=peer, run=request.run)

    def _outcome(
        self, request: Request
    ) -> tuple[dict[str, Any], Mapping[str, Tensor], dict[str, Any]]:
        """The reply, its arrays, and what the audit log is told of both."""
        if request.kind == "app":
            if self.policy.apps and request.app not in self.policy.apps:
                raise Refusal("app")
            return {}, {}, {}
        if request.version != __version__:
            raise Refusal("version")
        with refusing("plan", self.site.name):
            both = site_settings(self.site, request.config)
        settings = both.used
        self._check_named(settings)
        told = {"arm": settings.privacy.arm}
        if settings != self._last:
            forget()
            caches.prune(shards=True)
            self._buffers.forget()
            self._last = settings
        where = Site(str(self.site.policy), str(self.site.ledger), str(self.site.audit))
        if request.kind == "query":
            return self._joining(request, both, where), {}, told
        if request.kind == "sum":
            terms = terms_for(settings, 0, 0, where)
            text = in_sum(self._sums, terms, request.run, request.phase, request.text)
            return {"hospital": terms.name, "text": text}, {}, told
        frozen = self._buffers.find(request.buffers or request.frozen)
        if frozen is None:
            raise Refusal("buffers")
        request = replace(request, frozen=frozen)
        stored = self._check(request, terms_for(settings, 0, 0, where))
        self._buffers.keep(frozen)  # nothing else is kept of what came from outside
        # Until here no row of the data was read, and nothing that was refused was decoded.
        if stored is not None:
            reply: dict[str, Any] = {"hospital": self.site.name}
            reply |= {"clustering": 1.0} if request.kind == "evaluate" else _UNSAID
            return reply, exchange.unpack(stored), told
        if not self.requests.touches_data:
            raise Refusal("requests")
        caches.prune(shards=False)
        member = hospital.hospital_for(settings, 0, 0, where)
        if request.kind == "evaluate":
            evaluated = histograms.evaluate(
                member, request.run, request.model, request.frozen, request.edges
            )
            counts = {n: torch.from_numpy(c) for n, c in (evaluated.counts or {}).items()}
            reply = {"hospital": evaluated.hospital, "clustering": evaluated.clustering}
            return reply, counts, told
        trained = member.train(
            request.run, request.round_number, request.model, request.frozen, self._sums
        )
        reply = {"hospital": trained.hospital, "loss": trained.loss, "images": trained.images}
        return reply, trained.update or {}, told

    def _check(self, request: Request, terms: Terms) -> bytes | None:
        """What a request's model, the policy and the ledger say of it, before any data are read.

        The bytes of an answer that was paid for before; raises :class:`Refusal`.
        """
        model = hospital.model_for(terms.settings, request.model, request.frozen)
        if request.model.keys() != models.trainable(model).keys():
            raise Refusal("mismatch")
        if request.kind == "evaluate":
            spec, noise = histograms.asked_for(terms, request.edges)
            if noise is not None:
                arrays = {**request.frozen, **request.model}
                name = exchange.request_fingerprint(arrays, spec)
                charge = histograms.charge_for(terms, noise)
                return self._check_room(terms, ledger_run(request.run), charge, 0, name, 1)
            return None
        if not 1 <= request.round_number <= terms.settings.train.rounds:
            raise Refusal("plan")
        with refusing("ledger", self.site.name):
            decision = decide(
                terms.settings,
                terms.name,
                terms.plan,
                terms.policy,
                self.ledger,
                terms.patients,
                request.run,
            )
        if not decision.accepts:
            raise Refusal("policy")
        self._check_release(terms, model)
        if terms.plan.payer != "hospital":
            return None
        name = exchange.fingerprint(request.model)
        charge = request_for(terms.settings, self.ledger.path.stem, terms.plan, terms.policy)
        self._check_round(request, name)
        return self._check_room(
            terms, request.run, charge, request.round_number, name, terms.plan.steps_per_round
        )

    def _check_release(self, terms: Terms, model: nn.Module) -> None:
        """Room for what is noised once: on the disk, and where it is new by its features on the
        account: a server may send as many projections as it likes, each of them is another."""
        image, features = part(terms.plan, ImagePlan), part(terms.plan, FeaturePlan)
        kind = image.mechanism.key if image is not None else ""
        if features is not None:
            kind = release_name(model, terms.settings, features.mechanism)
        if kind and not caches.room_for_pool(kind):
            raise Refusal("requests")
        if features is None or path_of(kind, noise_source(terms.settings)).exists():
            return
        charge = request_for(terms.settings, self.ledger.path.stem, features, terms.policy)
        self._check_room(terms, kind, charge, 0, "", 1)

    def _check_round(self, request: Request, model: str) -> None:
        """Rounds go forward: an earlier one, or the same with another model, is no round of it."""
        with ledger_failures(self.ledger, self.site.name):
            if self.ledger.answered(request.run, request.round_number, model) is not None:
                return
            last = self.ledger.last_reserved(request.run)
        if last is not None and (
            request.round_number < last[0] or (request.round_number == last[0] and model != last[1])
        ):
            log.warning("round %d was asked for after round %d", request.round_number, last[0])
            raise Refusal("plan")

    def _check_room(
        self, terms: Terms, run: str, charge: Charge, number: int, model: str, steps: int
    ) -> bytes | None:
        """The answer that the ledger paid for before; else whether it would pay for a new one."""
        with ledger_failures(self.ledger, self.site.name):
            stored = self.ledger.answered(run, number, model)
            if stored is not None and not self._sums.current(stored, run, terms.name):
                stored = None
            if stored is None:
                self.ledger.rehearse(
                    run,
                    charge,
                    number,
                    model,
                    steps,
                    limit=self.policy.limit,
                    repeatable=terms.settings.privacy.reproducible_noise,
                )
            return stored

    def _joining(self, request: Request, both: Both, where: Site) -> dict[str, Any]:
        joining = review(both.used, 0, 0, where, request.run)
        if joining.accepts:
            against = own_settings.against_evaluation(both.asked, both.used)
            if against:
                log.warning("%s will not evaluate: %s", self.site.name, against)
            joining = replace(
                joining,
                own=own_settings.difference(both.asked, both.used),
                evaluates=joining.evaluates and not against,
            )
        return {"joining": {**vars(joining), "own": dict(joining.own)}}

    def _check_named(self, settings: Settings) -> None:
        """What the site itself does not noise leaves only if the policy names the arm."""
        arm = settings.arm
        if not arm.protects_alone and arm.name not in self.policy.arms:
            log.warning("the policy does not name %s, which rests on others", arm.name)
            raise Refusal("policy")
        if settings.privacy.reproducible_noise and not self.policy.allow_reproducible_noise:
            log.warning("the policy does not allow reproducible noise")
            raise Refusal("policy")


def _check(policy: Policy, site: SiteFile) -> None:
    """A policy that limits nothing is no veto, and an exact size is data."""
    if policy.limit is None and not (
        policy.arms and not any(ARMS[arm].protects for arm in policy.arms)
    ):
        raise UserError(
            f"{site.policy}: maximum-epsilon is missing, so that nothing would end what leaves; "
            "set it, or list only unprotected arms in arms"
        )
    if not policy.public_size:
        raise UserError(
            f"{site.policy}: public-size is missing: rates and divisors rest on a declared number "
            "of units, never on the exact one; set it"
        )


def _error(code: str) -> Frame:
    return {"error": code}, b""
