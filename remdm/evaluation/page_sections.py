"""The parts of a report's page: each a section, or a sentence that says why it is not there."""

import base64
from collections.abc import Iterable, Sequence
from itertools import count

from remdm.evaluation.bootstrap import ENOUGH_SEEDS
from remdm.evaluation.curves import X_LABELS
from remdm.evaluation.html_parts import Html, joined, paragraph, table, tag, text
from remdm.evaluation.page_pictures import (
    Bar,
    Curve,
    draw_bars,
    draw_curves,
    overall_limits,
    shortened,
    time_scale,
)
from remdm.evaluation.report_numbers import COUNTERS
from remdm.evaluation.run_groups import (
    REACHED,
    RETURNED,
    VALIDATED,
    PlayedTogether,
    RunGroup,
    ScoreTable,
    band,
    env_groups,
    first_reached,
    played,
    validated_by,
)
from remdm.evaluation.tables import short_env_name

_RATE = (-0.02, 1.03)
_MIB = 1 << 20
_MOST = 60  # pictures of one section


def section(title: str, *inside: Html) -> Html:
    """A part of the page."""
    return tag("section", tag("h2", text(title)), *inside)


def curve_sections(groups: Sequence[RunGroup], numbers: "count[int]") -> Iterable[Html]:
    """Learning curves: validation, single environments, losses.

    Args:
        groups: Runs.
        numbers: Of pictures.
    """
    metric = validated_by(groups)
    if metric is None:
        yield section("Learning curves", paragraph("No run has been validated yet."))
    else:
        words = {VALIDATED: "Mean win rate on validation levels", RETURNED: "Mean return"}[metric]
        drawn = [_chart(groups, metric, words, x, numbers) for x in COUNTERS]
        yield section(
            "Learning curves", paragraph(_band_words(groups)), _pictures(drawn, "No points yet.")
        )
        names = _names(groups, f"{metric}/")
        drawn = [_chart(groups, n, _env_of(n), "env_steps", numbers) for n in names[:_MOST]]
        yield section(
            "Validation by environment",
            _pictures(drawn, "There are no figures for it.", len(names)),
        )
    names = [name for name in _names(groups, "train/") if name.endswith("/loss")]
    drawn = [_chart(groups, n, _loss_of(n), "updates", numbers) for n in names[:_MOST]]
    yield section("Training loss", _pictures(drawn, "No run has trained yet.", len(names)))


def _env_of(name: str) -> str:
    return short_env_name(name.split("/", 2)[2])


def _loss_of(name: str) -> str:
    return name.removeprefix("train/").removesuffix("/loss")


def _band_words(groups: Sequence[RunGroup]) -> str:
    alone = [group.name for group in groups if len(group.runs) == 1]
    many = "Lines are means over runs; bands reach from the lowest run to the highest, and thin "
    many += "lines are the runs. They end where the shortest run of a group does. "
    one = f"Of one run alone, without a band: {', '.join(alone)}. " if alone else ""
    few = any(1 < group.seeds < ENOUGH_SEEDS for group in groups)
    less = f"Fewer than {ENOUGH_SEEDS} seeds are an indication, no proof." if few else ""
    return (many if len(alone) < len(groups) else "") + one + less


def _names(groups: Sequence[RunGroup], start: str) -> list[str]:
    """Names of metrics that begin so, in the order in which they came up."""
    lines = (line for group in groups for run in group.runs for line in run.metrics)
    return list(dict.fromkeys(name for line in lines for name in line if name.startswith(start)))


def _chart(
    groups: Sequence[RunGroup], metric: str, title: str, x: str, numbers: "count[int]"
) -> Html | None:
    """One metric of all groups; None where it has no points."""
    bands = [(number, group, band(group, metric, x)) for number, group in enumerate(groups)]
    curves = [Curve(_seeds(g), found, n) for n, g, found in bands if found is not None]
    if not curves:
        return None
    size, label = 1.0, X_LABELS[x]
    if x == "seconds":
        size, unit = time_scale(max(float(s.x[-1]) for c in curves for s in c.band.runs))
        label = f"{unit} of training"
    ends = [f"{c.label} {c.band.mean[-1]:.3g}" for c in curves if len(c.band.x)]
    return draw_curves(
        curves,
        title=title,
        x_label=label,
        alt=f"{title} over {label}. At the end: {', '.join(ends) or 'not all runs got there'}.",
        number=next(numbers),
        x_size=size,
        limits=_RATE if metric.startswith(VALIDATED) else None,
        logarithmic=metric.endswith("/loss"),
    )


def _seeds(group: RunGroup) -> str:
    runs = len(group.runs)
    seeds = f"{group.seeds} seed{'s' * (group.seeds > 1)}"
    return f"{group.name} ({seeds if runs == group.seeds else f'{runs} runs, {seeds}'})"


def _pictures(drawn: Iterable[Html | None], otherwise: str, wanted: int = 0) -> Html:
    """Pictures side by side, or a sentence; says how many of those `wanted` were too many."""
    there = [tag("figure", picture) for picture in drawn if picture is not None]
    if not there:
        return paragraph(otherwise)
    pictures = tag("div", joined(there), class_="pictures")
    if wanted <= _MOST:
        return pictures
    return joined([pictures, paragraph(f"{wanted - _MOST} more are left out.")])


def table_sections(groups: Sequence[RunGroup], numbers: "count[int]") -> Iterable[Html]:
    """Bars and figures of the final tables, by training, held-out and other environments."""
    rows = played(groups)
    if not rows:
        yield section("Final table", paragraph("No run has a final table yet."))
        return
    words = (
        "Win rates have Wilson 95 % intervals of all episodes of a group's runs together: they "
        "say how well the levels were sampled, not how seeds differ. Dots are single runs."
    )
    policies = {policy: n for n, policy in enumerate(dict.fromkeys(r.policy for r in rows))}
    for kind, envs in env_groups(groups).items():
        ordered = sorted(rows, key=lambda row: policies[row.policy])
        by_env = {env: [row for row in ordered if row.env == env] for env in envs}
        drawn = [_env_bars(env, by_env[env], policies, numbers) for env in envs[:_MOST]]
        yield section(
            f"Final table: {kind} environments",
            paragraph(words),
            _pictures(drawn, "", len(envs)),
            _figures(kind, [row for env in envs for row in by_env[env]], len(groups) > 1),
        )


def _env_bars(
    env: str, rows: Sequence[PlayedTogether], styles: dict[str, int], numbers: "count[int]"
) -> Html:
    several = len({row.group for row in rows}) > 1
    won = _can_be_won(rows)
    bars = []
    for row in rows:
        value, low, high = (row.rate.rate, row.rate.low, row.rate.high) if won else row.returned
        label = f"{shortened(row.policy, 17)}, {row.group}" if several else row.policy
        points = [r.win_rate if won else r.mean_return for r in row.rows]
        bars.append(Bar(label, value, low, high, styles[row.policy], points))
    words = "win rate" if won else "mean return (nothing is won here)"
    told = ", ".join(f"{bar.label} {bar.value:.3f}" for bar in bars)
    return draw_bars(
        bars,
        title=short_env_name(env),
        x_label=words,
        alt=f"{short_env_name(env)}, {words}: {told}.",
        number=next(numbers),
        limits=(0, 1) if won else overall_limits([x for b in bars for x in (b.low, b.high)]),
    )


def _can_be_won(rows: Sequence[PlayedTogether]) -> bool:
    """Whether anybody won, or there are no returns to tell instead."""
    return any(row.rate.wins for row in rows) or not any(any(row.returned) for row in rows)


def _figures(kind: str, rows: Sequence[PlayedTogether], several: bool) -> Html:
    lines = []
    for row in rows:
        rate, (mean, low, high) = row.rate, row.returned
        steps = [r.mean_steps_won for r in row.rows if r.mean_steps_won is not None]
        lines.append(
            (
                short_env_name(row.env),
                *([row.group] if several else []),
                row.policy,
                rate.episodes,
                f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]",
                f"{sum(steps) / len(steps):.1f}" if steps else "-",
                f"{mean:.2f} [{low:.2f}, {high:.2f}]" if any((mean, low, high)) else "-",
                f"{row.nfe_per_plan:.2f}",
                f"{row.nfe_per_env_step:.3f}",
            )
        )
    head = ["environment", *(["group"] if several else []), "policy", "episodes", "win rate"]
    head += ["steps per win", "mean return", "net calls per plan", "net calls per env step"]
    return table(f"All rows, {kind} environments", head, lines, numbers=3 if several else 2)


def iqm_section(tables: Sequence[ScoreTable], resamples: int) -> Html:
    """Interquartile means with their bootstrap intervals."""
    title = "Interquartile means over seeds and environments"
    if not tables:
        return section(title, paragraph("They need a final table."))
    words = (
        "The mean of scores without their lowest and highest quarter; a score is the win rate of "
        "one run in one environment, or its mean return where nobody ever wins. The 95 % "
        f"intervals are a stratified bootstrap over seeds, {resamples:,} "
        "resamples (Agarwal et al. 2021, arXiv:2108.13264). With one seed there is none; with "
        f"fewer than {ENOUGH_SEEDS} it is an indication and too narrow. Training and held-out "
        "environments are never averaged together."
    )
    lines = []
    for found in tables:
        iqm = found.iqm
        interval = "one seed" if iqm.low is None else f"[{iqm.low:.3f}, {iqm.high:.3f}]"
        words_of = (found.group, found.policy, found.envs, found.metric.replace("_", " "))
        lines.append((*words_of, iqm.seeds, iqm.envs, f"{iqm.value:.3f}", interval))
    head = ["group", "policy", "environments", "score", "runs", "how many", "IQM", "95 % interval"]
    return section(title, paragraph(words), table("Interquartile means", head, lines, numbers=4))


def efficiency_section(groups: Sequence[RunGroup]) -> Html:
    """Env steps, updates and time until validation rates were first reached."""
    title = "Sample efficiency"
    if validated_by(groups) != VALIDATED:
        return section(title, paragraph("It needs win rates on validation levels."))
    lines = []
    for group in groups:
        for level in REACHED:
            cells = [_reached(group, level, x) for x in COUNTERS]
            there = sum(first_reached(run, level, "epoch") is not None for run in group.runs)
            lines.append((group.name, f"{level:.2f}", f"{there} of {len(group.runs)}", *cells))
    words = (
        "What it took until the mean win rate on validation levels was first so high, as far as "
        "validation looked: mean over the runs that got there, and their range."
    )
    head = ["group", "win rate", "runs that did", *(X_LABELS[x] for x in COUNTERS)]
    return section(title, paragraph(words), table("To reach a win rate", head, lines))


def _reached(group: RunGroup, level: float, x: str) -> str:
    found = [first_reached(run, level, x) for run in group.runs]
    there = [value for value in found if value is not None]
    if not there:
        return "-"
    mean = f"{sum(there) / len(there):,.0f}"
    return mean if len(there) == 1 else f"{mean} ({min(there):,.0f} to {max(there):,.0f})"


def gif_section(groups: Sequence[RunGroup], max_gif_mib: float) -> Html:
    """Episodes of the first run of each group that has pictures, inside the page.

    Args:
        groups: Runs.
        max_gif_mib: Larger files are left out and named.
    """
    parts: list[Html] = []
    for group in groups:
        shown = next((run for run in group.runs if run.gifs), None)
        for name, path in (shown.gifs if shown else {}).items():
            size = path.stat().st_size / _MIB
            words = f"{group.name}: {short_env_name(name)}"
            if size > max_gif_mib:
                left = f"{words}: left out, its {size:.1f} MiB are more than {max_gif_mib:g}."
                parts.append(paragraph(left))
                continue
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            source = f"data:image/gif;base64,{data}"
            picture = tag("img", src=source, alt=f"An episode of the planner in {words}.")
            parts.append(tag("figure", picture, tag("figcaption", text(words))))
    if not parts:
        return section("Episodes", paragraph("No run has pictures of episodes."))
    summary = tag("summary", text("Moving pictures; close this to stop them"))
    inside = tag("div", joined(parts), class_="pictures")
    return section("Episodes", tag("details", summary, inside, open="open"))
