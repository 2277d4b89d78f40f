"""A pack: everything trained, immutable, versioned, checksummed. A folder of arrays, none of them a pickle.

The id of a pack is a hash of its content, so equal training gives equal ids. A pack whose files do not match their checksums is
refused, never half-used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from detector import drift, outliers
from detector.belief import Owners
from detector.encoder import WIDTH, Encoder
from detector.errors import PackError
from detector.evidence import Population, channel_names
from detector.facets import Facets
from detector.fusion import MATURITY, Fusion, Reference
from detector.profiles import Shape
from detector.trees import Trees

FORMAT = 19


@dataclass(frozen=True)
class Pack:
    """What scoring needs. `fusion` is None before there is enough history: sessions are learnt, scored roughly, never alarming."""

    id: str
    facets: Facets
    population: Population
    encoder: Encoder
    fusion: Fusion | None
    scores: tuple[Reference, ...] | None  # (M) of owners' own sessions by maturity, for p-values
    calm: np.ndarray  # (K,) as calibration.calm_shares has it
    owners: Owners  # how they are strange
    trusted_until: float  # sessions that ended before it are history: learnt without doubt
    trained_until: float  # newest event that training saw
    sessions: int  # how many sessions it was trained on
    sessions_per_day: float
    seed: int
    report: dict[str, Any]  # what training measured, for people
    drift: drift.Reference | None = None  # what is usual; None before there is enough history

    @property
    def channels(self) -> tuple[str, ...]:
        return channel_names(self.facets.text, (*self.facets.number, "volume"))

    @property
    def shape(self) -> Shape:
        return Shape(len(self.facets.text), len(self.facets.number) + 1, self.population.log_peer.shape[1], WIDTH)


def arrays_of(pack: Pack) -> dict[str, np.ndarray]:
    """Every array of a pack by name."""
    out = {f"population.{f.name}": getattr(pack.population, f.name) for f in fields(Population)}
    out |= {f"encoder.{f.name}": getattr(pack.encoder, f.name) for f in fields(Encoder)}
    out |= {f"owners.{f.name}": getattr(pack.owners, f.name) for f in fields(Owners)} | {"calm": pack.calm}
    if pack.drift is not None:
        out |= {f"drift.{f.name}": getattr(pack.drift, f.name) for f in fields(drift.Reference)}
    if pack.fusion is not None and pack.scores is not None:
        named = {f"scores.{m}": ref for m, ref in enumerate(pack.scores)}
        named |= {"boosting": pack.fusion.boosting_reference, "forest": pack.fusion.forest_reference}
        named |= {"sum": pack.fusion.sum_reference, "even": pack.fusion.even_reference, "among": pack.fusion.among_reference}
        named |= {"odds": pack.fusion.odds_reference, "strange": pack.fusion.strange_reference}
        out |= {name: getattr(pack.fusion, name) for name in ("weight", "even", "shown", "among")}
        out["forest"] = np.array([pack.fusion.forest.depth, pack.fusion.forest.offset])
        for kind, grown in (("boosting", pack.fusion.boosting), ("forest", pack.fusion.forest.trees)):
            out |= {f"trees.{kind}.{f.name}": getattr(grown, f.name) for f in fields(Trees)}
        named |= {f"channel.{c}.{m}": ref for c, row in enumerate(pack.fusion.channels) for m, ref in enumerate(row)}
        for name, ref in named.items():
            out[f"reference.{name}"] = np.concatenate([[ref.count, ref.scale, ref.slack], ref.values])
    return out


def manifest_of(pack: Pack) -> dict[str, Any]:
    """What of a pack is no array, JSON-able; without the id."""
    return {
        "format": FORMAT,
        "text": list(pack.facets.text),
        "number": list(pack.facets.number),
        "unit": list(pack.facets.unit),
        "pair_of": pack.facets.pair_of,
        "parents": dict(pack.facets.parents),
        "fixed": list(pack.facets.fixed),
        "together": list(pack.facets.together),
        "steady": dict(pack.facets.steady),
        "llr_shift": None if pack.fusion is None else pack.fusion.llr_shift,
        "voice": None if pack.fusion is None else pack.fusion.voice,
        "say": None if pack.fusion is None else pack.fusion.say,
        "trusted_until": pack.trusted_until,
        "trained_until": pack.trained_until,
        "sessions": pack.sessions,
        "sessions_per_day": pack.sessions_per_day,
        "seed": pack.seed,
        "report": pack.report,
    }


def content_id(pack: Pack) -> str:
    """The id: 12 hex digits of a hash over arrays and manifest."""
    digest = hashlib.sha256(json.dumps(manifest_of(pack), sort_keys=True).encode())
    for name, array in sorted(arrays_of(pack).items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def save(pack: Pack, packs: Path) -> Path:
    """Write a pack into the folder of packs, complete or not at all; returns its folder."""
    final, building = packs / pack.id, packs / f".{pack.id}.building"
    if final.exists():
        return final
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    write: Any = np.savez_compressed  # its stub takes no names from a mapping
    write(building / "arrays.npz", **arrays_of(pack))
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(building.iterdir())}
    text = json.dumps({"id": pack.id, **manifest_of(pack), "sha256": sums}, indent=1)
    with open(building / "pack.json", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    building.rename(final)
    return final


def load(folder: Path) -> Pack:
    """Read a pack; raises PackError where a file is missing or is not what was written."""
    try:
        manifest = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise PackError(f"{folder}: pack format {manifest['format']}, this version reads {FORMAT}; train a new pack")
        for name, expected in manifest["sha256"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                raise PackError(f"{folder / name}: damaged (checksum differs); use an earlier pack: unlike packs use ID")
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            arrays = dict(file)
        return _assemble(folder, manifest, arrays)
    except PackError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackError(f"{folder}: not a readable pack ({error}); use an earlier pack: unlike packs use ID") from error


def _assemble(folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> Pack:
    text, number, unit = (tuple(manifest[name]) for name in ("text", "number", "unit"))
    fixed, together = (tuple(manifest[name]) for name in ("fixed", "together"))
    facets = Facets(text, number, unit, manifest["pair_of"], manifest["parents"], fixed, together, manifest["steady"])
    population = Population(**{f.name: arrays[f"population.{f.name}"] for f in fields(Population)})
    encoder = Encoder(**{f.name: arrays[f"encoder.{f.name}"] for f in fields(Encoder)})

    def ref(name: str) -> Reference:
        packed = arrays[f"reference.{name}"]
        return Reference(packed[3:], int(packed[0]), float(packed[1]), float(packed[2]))

    fusion, scores = None, None
    if manifest["llr_shift"] is not None:
        boosting, grown = (
            Trees(**{f.name: arrays[f"trees.{kind}.{f.name}"] for f in fields(Trees)}) for kind in ("boosting", "forest")
        )
        names = channel_names(facets.text, (*facets.number, "volume"))
        channels = tuple(tuple(ref(f"channel.{c}.{m}") for m in range(len(MATURITY) + 1)) for c in range(len(names)))
        forest = outliers.Forest(grown, *arrays["forest"].tolist())
        references = (ref("boosting"), ref("forest"), ref("sum"), ref("even"))
        weights = arrays["weight"], arrays["even"], manifest["voice"], arrays["shown"]
        apart = (ref("among"), ref("odds"), ref("strange"))
        shares = manifest["say"], manifest["llr_shift"]
        fusion = Fusion(channels, boosting, forest, *references, *weights, arrays["among"], *apart, *shares)
        scores = tuple(ref(f"scores.{m}") for m in range(len(MATURITY) + 1))
    watched = {f.name: arrays[f"drift.{f.name}"] for f in fields(drift.Reference) if f"drift.{f.name}" in arrays}
    usual = drift.Reference(**watched) if watched else None
    kept = ("trusted_until", "trained_until", "sessions", "sessions_per_day", "seed", "report")
    owners = Owners(**{f.name: arrays[f"owners.{f.name}"] for f in fields(Owners)})
    whole = (facets, population, encoder, fusion, scores, arrays["calm"], owners)
    return Pack(manifest["id"], *whole, drift=usual, **{k: manifest[k] for k in kept})


def installed(packs: Path) -> str | None:
    """The id of the pack in use, None where there is none."""
    try:
        return (packs / "installed").read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def install(packs: Path, pack_id: str) -> None:
    """Make a saved pack the one in use, atomically."""
    if not (packs / pack_id / "pack.json").exists():
        raise PackError(f"{packs}: no pack {pack_id}; there are: {', '.join(saved(packs)) or 'none'}")
    waiting = packs / "installed.new"
    waiting.write_text(pack_id + "\n", encoding="utf-8")
    waiting.replace(packs / "installed")


def saved(packs: Path) -> list[str]:
    """The ids of all packs in a folder, oldest first."""
    found = [p.parent for p in packs.glob("*/pack.json") if not p.parent.name.startswith(".")]
    return [p.name for p in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))]
