"""What was measured, as text."""

from stats import interval, median

PARTS = ("server", "postgres", "client")


def number(value, digits=0):
    return f"{value:,.{digits}f}"


def spread(values, digits=0):
    """median (smallest–largest)"""
    return f"{number(median(values), digits)} ({number(min(values), digits)}–{number(max(values), digits)})"


def ratios(rounds, key, peer, ours):
    """One ratio for each round in which both sides ran."""
    return [
        run[ours].values[key] / run[peer].values[key]
        for run in rounds
        if ours in run and peer in run and run[peer].values[key]
    ]


def verdict(value, bound, more_is_better):
    if bound is None:
        return "–"
    met = value >= bound if more_is_better else value <= bound
    return f"{'≥' if more_is_better else '≤'} {bound:g} {'met' if met else 'MISSED'}"


def per_task(figures):
    """CPU microseconds a task by part, median over the rounds."""
    parts = []
    for part in PARTS:
        values = [f.cpu[part] / f.tasks * 1e6 for f in figures if f.tasks and f.cpu.get(part) is not None]
        if values:
            parts.append(f"{part} {median(values):.1f}")
    return " + ".join(parts)


def print_sides(row, rounds, counted, names):
    for name in names:
        figures = [run[name] for run in rounds if name in run]
        if not figures:
            continue
        print(f"  {name}")
        for value in row.values:
            measured = [f.values[value.key] for f in figures if f.values.get(value.key) is not None]
            if measured:
                print(f"    {value.unit:<28} {spread(measured, value.digits)}")
        if cpu := per_task(figures):
            print(f"    {'CPU µs each':<28} {cpu}")
        if name in counted and counted[name].statements is not None and counted[name].tasks:
            each = counted[name].statements / counted[name].tasks
            print(f"    {'statements each':<28} {each:.4f}")


def print_asks(row, rounds, ours):
    """The lines that count; answers them for the summary."""
    better = {value.key: value.more_is_better for value in row.values}
    units = {value.key: value.unit for value in row.values}
    lines = []
    for ask in row.asks:
        if ask.peer is None:
            values = [run[ours].values[ask.key] for run in rounds if ours in run]
            what = f"{units[ask.key]}"
        else:
            values = ratios(rounds, ask.key, ask.peer, ours)
            what = f"{units[ask.key]} ÷ {ask.peer}"
        if not values:
            lines.append((row.name, what, "NOT RUN", "", "", "", ""))
            continue
        middle, sure = median(values), interval(values)
        lines.append(
            (
                row.name,
                what,
                f"{middle:.2f}",
                f"{sure[0]:.2f}–{sure[1]:.2f}" if sure else "too few",
                f"{min(values):.2f}–{max(values):.2f}",
                verdict(middle, ask.must, better[ask.key]),
                verdict(middle, ask.aim, better[ask.key]),
            )
        )
    for line in lines:
        print("  " + "  ".join(part for part in line[1:] if part))
    return lines


def print_table(lines):
    heads = ("row", "tasktower", "median", "95 % interval", "range", "must", "aim")
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    for line in [heads, tuple("-" * width for width in widths), *lines]:
        print("  ".join(part.ljust(width) for part, width in zip(line, widths)).rstrip())
