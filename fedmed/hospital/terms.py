"""What a hospital answers from before it looks at its data: policy, ledger, plan, and its keys."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fedmed.base import files
from fedmed.base.errors import UserError
from fedmed.config import Settings
from fedmed.data.network import load_network, member_names
from fedmed.federation.answers import Joining
from fedmed.federation.members import (
    make_member_plan,
    patients_of,
    trained_parameters,
)
from fedmed.hospital import secure_sums
from fedmed.hospital.refusals import Refusal, refusing, summing
from fedmed.hospital.secure_sums import Sums
from fedmed.privacy.ledger.deciding import against_evaluation, decide
from fedmed.privacy.ledger.ledger import Ledger
from fedmed.privacy.ledger.policy import Policy, load_policy, read_policy
from fedmed.privacy.plans import (
    Plan,
    SummedPlan,
    part,
)
from fedmed.privacy.plans.evaluation import evaluation_plan
from fedmed.site import own_settings

log = logging.getLogger("fedmed.hospital")


@dataclass(frozen=True)
class Site:
    """Where a site keeps its own policy and ledger: what its node was started with.

    Empty in a simulation, where the settings say (``run.policies``, ``run.ledgers``). What a site
    names here, no setting that comes with a request can replace.
    """

    policy: str = ""
    ledger: str = ""
    audit: str = ""  # the ledger's log; empty = beside it

    def rules(self, settings: Settings, name: str) -> Policy:
        """The policy that holds; raises :class:`UserError` for a file that cannot be used."""
        if self.policy:
            return read_policy(Path(self.policy))
        return load_policy(settings.run.policies, name)

    def open_ledger(self, settings: Settings, name: str, run_id: int) -> Ledger:
        """The ledger that pays."""
        if self.ledger:
            return Ledger(Path(self.ledger), Path(self.audit) if self.audit else None)
        if self.policy:
            raise UserError(
                "the node names a policy but no ledger, so that every run would have a fresh "
                "budget; start it with ledger as well"
            )
        folder = files.run_folder(settings.run.out, run_id)
        return Ledger(files.ledger_path(settings.run.ledgers, folder, name))


def name_of(settings: Settings, index: int) -> str:
    """Name of the member with this partition id; raises :class:`Refusal` where data are missing."""
    try:
        names = member_names(settings)
    except UserError as error:
        log.error("data: %s", error)
        raise Refusal("data") from error
    if index >= len(names):
        raise Refusal("plan")
    return names[index]


@dataclass(frozen=True)
class Terms:
    """What a hospital answers from before it looks at its data: its policy, ledger and plan.

    Where the policy declares a size, the plan rests on that, and no row was read for it.
    """

    name: str
    settings: Settings
    plan: Plan
    policy: Policy
    ledger: Ledger

    @property
    def patients(self) -> int:
        """How many the policy takes the cohort to have: as declared, else as counted."""
        return self.policy.public_size or patients_of(self.settings, self.name)


def in_sum(sums: Sums, terms: Terms, run: str, phase: str, text: str) -> str:
    """A member's answer to one message of a secure sum; raises :class:`Refusal`.

    Nothing of its data enters: only keys, and who else answered.
    """
    plan = part(terms.plan, SummedPlan)
    if plan is None or plan.placement != "shares" or phase not in secure_sums.PHASES:
        raise Refusal("plan")
    model, data = terms.settings.model, terms.settings.data
    count = trained_parameters(model, data.image_size, data.dimensions, data.outputs)
    with refusing("plan", terms.name), summing(terms.name):
        about = secure_sums.terms(run, sums.names(terms.settings), plan, count)
        with sums.opened(about, terms.name) as member:
            return secure_sums.answer(member, phase, text)


def fixed_split(settings: Settings) -> bool:
    """Whether the site itself says who is trained on; see ``Network.fixed_split``.

    A deployed site's own file says so; in a simulation it shows in the table.
    """
    if settings.data.site_names:
        return settings.data.split == "given"
    return load_network(settings.data).fixed_split


def terms_for(settings: Settings, index: int, run_id: int, site: Site | None = None) -> Terms:
    """The member's terms; raises :class:`Refusal` where there is no plan or no ledger."""
    site = site or Site()
    name = name_of(settings, index)
    with refusing("plan", name):
        settings = own_settings.own_settings(settings, name)
        policy = site.rules(settings, name)
        plan = make_member_plan(settings, name, policy)
    with refusing("ledger", name):
        return Terms(name, settings, plan, policy, site.open_ledger(settings, name, run_id))


def review(
    settings: Settings, index: int, run_id: int, site: Site | None = None, run: str = ""
) -> Joining:
    """Who this member is and whether its policy takes the plan of ``run``; no image is read.

    Of a hospital that declares a size no row either: whoever asks learns nothing of its data.
    Raises :class:`Refusal` where no plan or no decision can be made.
    """
    site, asked = site or Site(), settings
    with refusing("plan", "a hospital"):
        if settings.evaluation.train_metrics and (site.policy or site.ledger):
            raise UserError(
                "evaluation.train-metrics lets the server read training images, which is for "
                "simulations; remove it"
            )
    terms = terms_for(settings, index, run_id, site)
    name, settings, plan, policy, ledger = (
        terms.name, terms.settings, terms.plan, terms.policy, terms.ledger,
    )  # fmt: skip
    with refusing("ledger", name):
        decision = decide(settings, name, plan, policy, ledger, terms.patients, run)
        if decision.accepts:
            against = ""
            if settings.evaluation.where != "server":
                against = own_settings.against_evaluation(asked, settings) or against_evaluation(
                    settings,
                    plan,
                    evaluation_plan(settings),
                    policy,
                    ledger,
                    run,
                    fixed_split=fixed_split(settings),
                )
            if against:
                log.warning("%s will not evaluate: %s", name, against)
                ledger.note("refused", reason=against, arm=settings.privacy.arm)
            return Joining(
                hospital=name,
                public_size=policy.public_size,
                evaluates=not against,
                own=own_settings.difference(asked, settings),
            )
        log.warning("%s refuses: %s", name, decision.reason)
        ledger.note("refused", reason=decision.reason, arm=settings.privacy.arm)
    return Joining(hospital=name, accepts=False, rounds=decision.rounds, epsilon=decision.epsilon)
