"""Write the import contracts (`.importlinter`) that follow from the folder and notebook names under nbs/."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / ".importlinter"
VENUE = "autotrader.exchange.bybit"  # the only module that can reach a real order
MAY_TRADE = {"autotrader.runner.app", "autotrader.cli.main"}


def rooms(nbs: Path) -> dict[str, list[str]]:
    "Modules of each floor, both from the lowest number to the highest."
    floors = sorted(folder for folder in nbs.iterdir() if re.fullmatch(r"\d\d_[a-z]\w*", folder.name))
    return {
        folder.name[3:]: [
            notebook.stem[3:]
            for notebook in sorted(folder.glob("[0-9][0-9]_*.ipynb"))
            if notebook.stem[3:] != "__init__"
        ]
        for folder in floors
        if any(folder.glob("*.ipynb"))
    }


def contract(name: str, kind: str, title: str, **lists: list[str]) -> str:
    lines = [f"[importlinter:contract:{name}]", f"name = {title}", f"type = {kind}"]
    for key, values in lists.items():
        lines += [f"{key} =", *(f"    {value}" for value in values)]
    return "\n".join(lines)


def render(house: dict[str, list[str]]) -> str:
    "Text of the contracts: floors, siblings, and who may trade."
    parts = [
        "; written by tools/contracts.py from the names under nbs/\n[importlinter]\nroot_package = autotrader",
        contract(
            "floors",
            "layers",
            "A floor imports only from lower floors",
            containers=["autotrader"],
            layers=list(reversed(house)),
        )
        + "\nexhaustive = true\nexhaustive_ignores =\n    _modidx",
    ]
    for floor, modules in house.items():
        if len(modules) > 1:
            title = f"Inside {floor} a module imports only from lower numbers"
            containers = [f"autotrader.{floor}"]
            parts.append(contract(floor, "layers", title, containers=containers, layers=modules[::-1]))
    names = {f"autotrader.{floor}.{module}" for floor, modules in house.items() for module in modules}
    if VENUE in names:
        parts.append(
            contract(
                "venue",
                "forbidden",
                f"Only {' and '.join(sorted(MAY_TRADE))} may reach {VENUE}",
                source_modules=sorted(names - MAY_TRADE - {VENUE}),
                forbidden_modules=[VENUE],
            )
        )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    text = render(rooms(ROOT / "nbs"))
    if "--check" not in sys.argv:
        TARGET.write_text(text)
    elif not TARGET.exists() or TARGET.read_text() != text:
        sys.exit("the import contracts are not those of the folder names: run `make export`")
