"""A site's own rules, and its decision about a study. The site decides only by what it computes from the bundle itself.

The statement comes from `privacy.check.resolve`, on the bundle's plain data and the roster that the site has verified. What a
server says of a study, its cohort or its guarantee plays no part.
"""

from __future__ import annotations

import math
import os
import tomllib
import typing
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from manent.accounting import Account, Budget, Cost, Event, Ledger, Period
from manent.core.errors import InvalidInput, ManentError, NotAuthorized, Refused
from manent.core.protocols import AlgorithmTraits, SummationTraits, traits
from manent.core.study import Cohort, Study
from manent.network.trust.rules import (
    EXAMPLE,
    CodeRule,
    CohortRule,
    DataRule,
    LimitRule,
    PrivacyRule,
    SummationRule,
    WorkRule,
    check_hash,
)
from manent.network.wire.bundle import Bundle
from manent.privacy import Plan, resolve
from manent.rounds.declared import Sites, declared_model, rebuild, schema_of
from manent.rounds.strict import options, read, shown

MEGABYTE = 1e6
_UNFIT = (ManentError, ArithmeticError, ValueError, MemoryError)  # raised for absurd numbers in a bundle: each is a refusal
_SAME = 1 + 1e-9  # tolerance for an epsilon that was found by search, as in `privacy.check`


@dataclass(frozen=True)
class Policy:
    """What a site takes part in. What is not allowed here is refused; an unknown key is an error.

    Attributes:
        researchers: whose studies: names, and public keys of 64 hexadecimal digits.
        code, cohort, summation, privacy, limits, work: the rules of each section; see `trust.rules`.
        data: the data sets that a study may name.

    Raises InvalidInput for rules that contradict each other.
    """

    researchers: Mapping[str, str]
    code: CodeRule
    cohort: CohortRule
    summation: SummationRule
    privacy: PrivacyRule
    data: Mapping[str, DataRule]
    limits: LimitRule
    work: WorkRule

    def __post_init__(self) -> None:
        for name, key in self.researchers.items():
            check_hash(f"researchers.{name}", key)
        if len(set(self.researchers.values())) < len(self.researchers):
            raise InvalidInput("Two researchers of the policy have the same key. Remove one.")
        for name, rule in self.data.items():
            if rule.budget is not None and (self.privacy.unit, rule.budget.privacy_unit) == ("client", "example"):
                raise InvalidInput(
                    f"privacy.unit is 'client', and data.{name}.budget is for each 'example': no study fits both. Change one."
                )
            if self.privacy.required and rule.budget is None:
                raise InvalidInput(
                    f"data.{name} has no budget, and privacy.required = true. Add its budget = {{ epsilon = ..., delta = ..., "
                    f"privacy_unit = ..., neighboring_relation = ... }}."
                )

    @staticmethod
    def read(text: str) -> Policy:
        """The policy in a TOML text.

        Raises InvalidInput, naming the key, for an unknown key, a missing one, or a value that does not fit.
        """
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InvalidInput(f"The policy is not TOML: {error}.") from None
        found: Policy = read(Policy, document, "policy", _table)
        return found

    @staticmethod
    def load(path: str | Path) -> Policy:
        """The policy in a file. Raises InvalidInput as `read`, naming the file, and if the file cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{path} cannot be read as a policy: {error}. Write one with: manent site init") from None
        try:
            return Policy.read(text)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None

    @staticmethod
    def example() -> str:
        """A careful policy, as text, with every key and what it means. It allows nobody's studies yet."""
        return EXAMPLE


def _table(annotation: object, table: Mapping[str, Any], where: str) -> Any:
    for option in options(annotation):
        if is_dataclass(option) and isinstance(option, type):
            return read(option, table, where, _table)
        if typing.get_origin(option) is abc.Mapping:
            inner: Any = typing.get_args(option)[1]
            return {name: _value(inner, value, f"{where}.{name}") for name, value in table.items()}
    raise InvalidInput(f"{where} expects no table; found {shown(table)}.")


def _value(annotation: Any, value: object, where: str) -> Any:
    if annotation is str and isinstance(value, str):
        return value
    if annotation is not str and isinstance(value, Mapping):
        return _table(annotation, value, where)
    raise InvalidInput(f"{where} expects {'text' if annotation is str else 'a table'}; found {shown(value)}.")


def approved(path: str | Path) -> frozenset[str]:
    """Hashes of the bundles that were approved by hand. Raises InvalidInput as `approvals`."""
    return frozenset(approvals(path))


def approvals(path: str | Path) -> tuple[str, ...]:
    """Hashes of the bundles that were approved by hand, in order; none if there is no such file.

    Raises InvalidInput, naming the line, for what is no approval.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read as approvals: {error}.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        head = line.split("#", 1)[0].strip()
        if head:
            check_hash(f"{path}, line {number}", head)
            found.append(head)
    return tuple(found)


def approve(path: str | Path, bundle: str, note: str) -> None:
    """Add the hash of a bundle, with a note of who and when, as one line. Raises InvalidInput for what is no hash."""
    check_hash("An approval", bundle)
    line = " ".join(ascii(note)[1:-1].split())
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(f"{bundle}  # {line}\n")


def installed_version(package: str) -> str | None:
    """The version of a package in the environment in which studies' code runs; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Facts:
    """What only the site knows at the moment.

    Attributes:
        now: local time.
        isolated: whether code can be kept from network, keys and files here, as was tried.
        ledger: the site's own account of its data sets.
        approved: see `approved`.
        load: load average of the last minute, for each processor; None if the system does not tell.
        mains_power: whether this machine has it; None if the system does not tell.
        installed: the version of a package here; None if it is not installed.
    """

    now: datetime
    isolated: bool
    ledger: Ledger | None = None
    approved: frozenset[str] = frozenset()
    load: float | None = None
    mains_power: bool | None = None
    installed: Callable[[str], str | None] = installed_version


@dataclass(frozen=True)
class Refusal:
    """One rule that a study does not keep.

    Attributes:
        rule: the policy's key; or "study", "signature" or "requirements" for what no policy allows.
        demands: what the policy asks for.
        found: what there is instead.
        change: what to change.
        passing: whether it will pass later by itself.
    """

    rule: str
    demands: str
    found: str
    change: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.rule}: this site demands {self.demands}; found {self.found}. {self.change}"


@dataclass(frozen=True)
class Decision:
    """What a site decides about a study.

    Attributes:
        refusals: one for each rule that is not kept.
        plan: the site's own plan of the study, with its statement; None if the site could not make one.
    """

    refusals: tuple[Refusal, ...]
    plan: Plan | None = None

    @property
    def allowed(self) -> bool:
        """Whether the site takes part."""
        return not self.refusals

    @property
    def reasons(self) -> tuple[str, ...]:
        """One text for each refusal: what is demanded, what was found, and what to change."""
        return tuple(str(refusal) for refusal in self.refusals)

    @property
    def later(self) -> bool:
        """Whether the site refuses only for now."""
        return bool(self.refusals) and all(refusal.passing for refusal in self.refusals)


def decide(policy: Policy, bundle: Bundle, roster: Sequence[str], facts: Facts) -> Decision:
    """Whether a site takes part in a study. No code of the study is run.

    Args:
        roster: names of all sites, from the roster that the site has verified.
        facts: what only the site knows at the moment.

    A wrong bundle raises nothing: it is refused as well.
    """
    stranger = _signature(policy, bundle)
    if stranger:  # spend no time on those who may not ask
        return Decision(stranger)
    found = [
        *_code(policy.code, bundle, facts),
        *_requirements(bundle, facts),
        *_data(policy, bundle),
        *conditions(policy, facts),
    ]
    try:
        study, sites = rebuild(bundle.study), Sites(tuple(roster), schema_of(bundle.schema))
        large = _size(policy, study, sites)
    except _UNFIT as error:
        return Decision((*found, _unstated(error)))
    if large:  # allocate nothing for what would not fit
        return Decision((*found, *large))
    try:
        plan = resolve(study, sites)
    except _UNFIT as error:
        return Decision((*found, _unstated(error)))
    found += [
        *_with_code(plan.study, bundle),
        *_cohort(policy.cohort, plan),
        *_summation(policy.summation, plan),
        *_privacy(policy, plan),
        *_budget(policy, bundle, plan, facts),
    ]
    return Decision(tuple(found), plan)


def conditions(policy: Policy, facts: Facts) -> tuple[Refusal, ...]:
    """What keeps this machine from work just now. Ask before each sum."""
    rule, found = policy.work, []
    wait = "Wait; the site asks again by itself."
    if not rule.now(facts.now.time()):
        hours = ", ".join(rule.hours)
        found.append(Refusal("work.hours", f"work between {hours}", f"{facts.now:%H:%M}", wait, passing=True))
    if rule.mains_power and facts.mains_power is not True:
        power = "battery power" if facts.mains_power is False else "a system that does not tell"
        cure = wait if facts.mains_power is False else "Set work.mains_power = false where the machine has no battery."
        found.append(Refusal("work.mains_power", "mains power", power, cure, passing=True))
    if rule.load is not None and not (facts.load is not None and facts.load <= rule.load):
        load = "a load that this system does not tell" if facts.load is None else f"{facts.load:.2f}"
        cure = wait if facts.load is not None else "Leave work.load out."
        found.append(Refusal("work.load", f"a load of at most {rule.load:g} for each processor", load, cure, passing=True))
    return tuple(found)


def charged(policy: Policy, plan: Plan, data: str | None = None) -> Event | None:
    """What a study costs this site's account; None without differential privacy.

    It is what the dearest of the observers learns whom the policy, or the budget of the data, names.

    Args:
        data: the name of the data set; None for whatever data, by the policy alone.

    Raises Refused where nothing in the study protects from one of them.
    """
    if plan.privacy is None:
        return None
    rule = None if data is None else policy.data.get(data)
    own = None if rule is None or rule.budget is None else rule.budget.against
    against = tuple(dict.fromkeys((*policy.privacy.against, *(own or ()))))
    return plan.privacy.charged(against or None)


def load_now() -> float | None:
    """Load average of the last minute for each processor; None if the system does not tell."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return None


def on_mains(folder: Path = Path("/sys/class/power_supply")) -> bool | None:
    """Whether the machine has mains power, or no battery; None if the system does not tell."""
    try:
        supplies = [((item / "type").read_text().strip(), item) for item in folder.iterdir()]
        mains = [(item / "online").read_text().strip() == "1" for kind, item in supplies if kind in ("Mains", "USB")]
    except OSError:
        return None
    return any(mains) or not any(kind == "Battery" for kind, _ in supplies)


def _inside(message: object) -> str:
    """A message as part of a sentence: on one line, without its full stop."""
    return " ".join(str(message).split()).rstrip(".")


def _unstated(error: Exception) -> Refusal:
    return Refusal(
        "study",
        "a study of which it can itself state who sees what",
        f"one that is refused: {_inside(error)}",
        "Try `manent check` with as many sites, and use the same version of manent.",
    )


def _signature(policy: Policy, bundle: Bundle) -> tuple[Refusal, ...]:
    try:
        researcher = bundle.verify()
    except NotAuthorized as error:
        return (Refusal("signature", "a bundle signed by a researcher", _inside(error), "Sign what is to be sent."),)
    if researcher not in policy.researchers.values():
        cure = "Ask the site to add this key to its policy."
        return (Refusal("researchers", "a study by someone whom its policy names", f"the key {researcher}", cure),)
    return ()


def _code(rule: CodeRule, bundle: Bundle, facts: Facts) -> list[Refusal]:
    found = []
    if rule.rule == "none" and bundle.code:
        files = ", ".join(sorted(bundle.code)[:5])
        found.append(Refusal("code.rule", "studies without code of their own", files, "Use a model of manent.models.numpy."))
    if rule.rule == "listed" and bundle.code and bundle.code_hash not in rule.hashes:
        cure = "Use code that is listed, or ask the site to add this hash after a look at it."
        found.append(Refusal("code.hashes", f"code with one of {len(rule.hashes)} listed hashes", bundle.code_hash, cure))
    if rule.rule == "reviewed" and bundle.hash not in facts.approved:
        cure = "Ask the site to look at it with: manent site review. Whatever is changed afterwards needs another look."
        found.append(Refusal("code.rule", "a bundle that a person here approved", f"{bundle.hash}, which nobody did", cure))
    if rule.isolation == "required" and bundle.code and not facts.isolated:
        cure = "Use a model without code; or the site can run on Linux with user namespaces, or set code.isolation = 'preferred'."
        found.append(Refusal("code.isolation", "that code is kept from network, keys and files", "a system that cannot", cure))
    return found


def _requirements(bundle: Bundle, facts: Facts) -> list[Refusal]:
    """What the code needs and is not here. The site's own versions are not told: they would show what it is vulnerable to."""
    missing, others = [], []
    for pin in bundle.requirements:
        name, _, wanted = pin.partition("==")
        here = facts.installed(name.partition("[")[0])
        if here is None:
            missing.append(f"{name} is not installed")
        elif not _same(wanted, here):
            others.append(f"{name} has another version than {wanted}")
    if not missing and not others:
        return []
    found, cure = ", ".join([*missing, *others][:10]), "The site can install what the study pins; or pin what sites have."
    return [Refusal("requirements", "packages as they are installed here", found, cure)]


def _same(wanted: str, here: str) -> bool:
    """Whether a version is the wanted one, as PEP 440 matches: one built for these processors (2.13.0+cpu) is."""
    try:
        return SpecifierSet(f"=={wanted}").contains(here, prereleases=True)
    except InvalidSpecifier:
        return wanted == here


def _data(policy: Policy, bundle: Bundle) -> list[Refusal]:
    if bundle.data in policy.data:
        return []
    known = ", ".join(map(shown, policy.data)) or "none"
    return [Refusal("data", f"a study on one of its data sets: {known}", shown(bundle.data), "Name one of them.")]


def _size(policy: Policy, study: Study, sites: Sites) -> list[Refusal]:
    """What is told before anything is worked out: noise for a large epsilon, too, takes long to find."""
    rule, found, algorithm = policy.limits, [], study.algorithm
    most = policy.privacy.epsilon
    if most is not None and study.budget is not None and study.budget.epsilon > most:
        size, cure = f"a budget of {study.budget.epsilon:g}", f"Use Budget(epsilon={most:g}) or less."
        found.append(Refusal("privacy.epsilon", f"epsilon of at most {most:g}", size, cure))
    if study.rounds > rule.rounds:
        found.append(Refusal("limits.rounds", f"at most {rule.rounds:,} rounds", f"{study.rounds:,}", "Run fewer rounds."))
    model = traits(algorithm, AlgorithmTraits).model
    parameters, memory = 0 if model is None else model.layout.size, algorithm.memory(sites.public)
    if parameters * 4 > rule.model_mb * MEGABYTE:
        size = f"{parameters * 4 / MEGABYTE:,.7g} MB"
        found.append(Refusal("limits.model_mb", f"a model of at most {rule.model_mb:g} MB", size, "Use a smaller model."))
    # Memory for a vector as it is computed, the same as it is summed, the model, and what the client keeps.
    largest = max(spec.layout.size for spec in algorithm.sums(sites.public))
    needed = 12 * largest + 4 * parameters + (0 if memory is None else 8 * memory.size)
    if needed > rule.memory_mb * MEGABYTE:
        size, cure = f"{needed / MEGABYTE:,.7g} MB for one sum", "Use a smaller model, or another algorithm."
        found.append(Refusal("limits.memory_mb", f"at most {rule.memory_mb:g} MB of memory", size, cure))
    return found


def _with_code(study: Study, bundle: Bundle) -> list[Refusal]:
    model = declared_model(study)
    if model is None or bundle.code:
        return []
    kind = shown(model.document["type"])
    return [Refusal("study", f"the code of its model, a {kind}", "no file in the bundle", "Send study.py with it.")]


def fewest_asked(cohort: Cohort, clients: int) -> int:
    """The fewest of a population who are asked for a sum."""
    q = cohort.sampling_probability
    if q is not None:
        return min(clients, cohort.maximum or clients) if q == 1 else 0
    return min(clients // (cohort.min_separation or 1), cohort.size or clients)


def _cohort(rule: CohortRule, plan: Plan) -> list[Refusal]:
    found, clients = [], plan.public.clients
    asked, minimum = fewest_asked(plan.study.cohort, clients), plan.gathering.minimum
    if asked < rule.minimum:
        size = f"{asked} of {clients}" if plan.study.cohort.sampling_probability is None else "a random number, which may be none"
        cure = f"Ask Cohort(size={rule.minimum}) or more, or everyone, in a federation of at least {rule.minimum}."
        found.append(Refusal("cohort.minimum", f"at least {rule.minimum} sites in each sum", size, cure))
    if max(minimum, 1) < rule.survivors:  # this site's own answer is one
        cure = f"Set Cohort(minimum={rule.survivors}) or more; with SecAgg, its minimum_cohort."
        demands = f"that nothing is released of fewer than {rule.survivors} answers"
        found.append(Refusal("cohort.survivors", demands, f"a release with {minimum}", cure))
    return found


def _summation(rule: SummationRule, plan: Plan) -> list[Refusal]:
    hiding, name = traits(plan.summation, SummationTraits).hiding, type(plan.summation).__name__
    if name not in rule.allowed:
        some = " or ".join(rule.allowed)
        return [Refusal("summation.allowed", f"the summation {some}", name, f"Use Study(summation={rule.allowed[0]}(...)).")]
    if hiding is None:
        return []
    found = []
    if hiding.modelled:
        cure = "Leave modelled out; it is for simulations."
        found.append(Refusal("summation.allowed", "masks on its vectors", f"{name}(modelled=True), which makes none", cure))
    if rule.adversary == "active" and hiding.adversary != "active":
        cure = f"Use {name}(adversary='active')."
        found.append(Refusal("summation.adversary", "protection from a server that lies", repr(hiding.adversary), cure))
    if hiding.corrupt < rule.corrupt:
        cure = f"Use {name}(corrupt={rule.corrupt:g}) or more."
        demands = f"protection from a share of {rule.corrupt:g} of the sites that collude"
        found.append(Refusal("summation.corrupt", demands, f"{hiding.corrupt:g}", cure))
    if rule.post_quantum and not hiding.post_quantum:
        cure = f"Use {name}(post_quantum=True)."
        found.append(Refusal("summation.post_quantum", "ML-KEM beside X25519", "post_quantum=False", cure))
    return found


def _privacy(policy: Policy, plan: Plan) -> list[Refusal]:
    rule, privacy = policy.privacy, plan.privacy
    epsilon, delta = rule.epsilon, rule.delta
    if not rule.required or epsilon is None or delta is None:
        return []
    if privacy is None:
        cure = f"Add Budget(epsilon={epsilon:g}, ...), with LocalSGD(privacy=DPSGD(...)), or Clip and noise as layers."
        return [
            Refusal("privacy.required", f"differential privacy with epsilon at most {epsilon:g}", "a release without it", cure)
        ]
    found = []
    if rule.unit == "client" and privacy.unit != "client":
        cure = "Use Budget(privacy_unit='client') with Clip and noise as layers."
        found.append(Refusal("privacy.unit", "protection of all its data together", "protection of single examples", cure))
    held = []
    for observer in rule.against:
        guarantee, why = privacy.observers.get(observer, (None, "the study declares nobody who colludes"))
        if guarantee is not None and math.isfinite(guarantee.epsilon):
            held.append((guarantee.epsilon, observer))
            continue
        cure = "Use DistributedNoise with SecAgg, LocalNoise, or DPSGD."
        none = f"none: {_inside(why) or 'no accountant bounds it'}"
        found.append(Refusal("privacy.against", f"a guarantee against the {observer}", none, cure))
    if held and not max(held)[0] <= epsilon * _SAME:
        cure = f"Use Budget(epsilon={epsilon:g}) or less, and leave the noise multiplier out."
        size = f"{max(held)[0]:.4g} against the {max(held)[1]}"
        found.append(Refusal("privacy.epsilon", f"epsilon of at most {epsilon:g}", size, cure))
    if not privacy.delta <= delta:
        cure = f"Use Budget(delta={delta:g}) or less."
        found.append(Refusal("privacy.delta", f"delta of at most {delta:g}", f"{privacy.delta:g}", cure))
    return found


def _budget(policy: Policy, bundle: Bundle, plan: Plan, facts: Facts) -> list[Refusal]:
    rule = policy.data.get(bundle.data)
    if rule is None or rule.budget is None:
        return []
    name, budget = f"data.{bundle.data}.budget", rule.budget
    demands = f"room in a budget of epsilon {budget.epsilon:g} at delta {budget.delta:g}"
    try:
        event = charged(policy, plan, bundle.data)
    except Refused as error:
        if plan.privacy is None or set(budget.against or ()) <= set(plan.privacy.events):
            return []  # privacy.against is not kept, which is told there
        return [Refusal(name, demands, _inside(error), "Use a study that protects from them.")]
    if plan.privacy is None or event is None:
        return [Refusal(name, demands, "a study without differential privacy", "Add Budget(...) and noise, or use other data.")]
    if facts.ledger is None:
        return [Refusal(name, demands, "no ledger", "The site opens its ledger, and decides again.")]
    unit, relation = plan.privacy.unit, plan.privacy.relation
    try:
        held = facts.ledger.account(bundle.data)
        cost = facts.ledger.cost(bundle.data, event, privacy_unit=unit, neighboring_relation=relation)
    except Refused as error:
        cure = f"Use privacy_unit={budget.privacy_unit!r} and neighboring_relation={budget.neighboring_relation!r}."
        return [Refusal(name, demands, f"another one: {_inside(error)}", cure)]
    except ManentError as error:
        return [Refusal(name, demands, _inside(error), "The site looks after its ledger, and decides again.")]
    return _fits(name, demands, (budget, rule.period), held, cost)


def _fits(name: str, demands: str, wanted: tuple[Budget, Period | None], held: Account, cost: Cost) -> list[Refusal]:
    """Whether a study fits into what its ledger holds, which must be what the site's policy says."""
    if (held.budget, held.period) != wanted:
        cure = "The site puts back the budget that its ledger began with; a budget is not changed."
        found = f"a ledger with epsilon {held.budget.epsilon:g} at delta {held.budget.delta:g}, and {held.period or 'no period'}"
        return [Refusal(name, demands, found, cure)]
    if cost.fits:
        return []
    if cost.wait:
        cure = f"{'Wait, add' if cost.later else 'Add'} noise, or run fewer rounds. {cost.wait}"
        return [Refusal(name, demands, "no room in its period", cure, passing=cost.later)]
    size = f"{cost.before:.4g} spent or reserved, and {cost.after:.4g} with this study"
    return [Refusal(name, demands, size, "Add noise, run fewer rounds, or use other data.")]
