#!/usr/bin/env python3
"""Writes unicode_tables.hpp from the Unicode Character Database.

    apt-get install unicode-data        # Debian bookworm: Unicode 15.0.0
    python3 unicode_tables.py [/usr/share/unicode] > unicode_tables.hpp

Kept: general category, Alphabetic, White_Space, quick checks of the four normal forms, grapheme cluster break,
canonical combining class, decompositions, compositions, lower case, simple case folding, scripts, and what came after
Unicode 8.0 and 9.0.
"""
import bz2, os, re, sys

root = sys.argv[1] if len(sys.argv) > 1 else "/usr/share/unicode"
SIZE = 0x110000


def lines(name):
    with open(os.path.join(root, name), encoding="utf-8") as f:
        for line in f:
            line = line.split("#")[0].strip()
            if line:
                yield [field.strip() for field in line.split(";")]


def span(field):
    first, _, last = field.partition("..")
    return range(int(first, 16), int(last or first, 16) + 1)


def points(text):
    return [int(p, 16) for p in text.split()]


with open(os.path.join(root, "DerivedCoreProperties.txt"), encoding="utf-8") as f:
    version = re.search(r"-(\d+\.\d+\.\d+)\.txt", f.readline()).group(1)

CATEGORIES = "Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co".split()
BREAKS = "Other CR LF Control Extend ZWJ Regional_Indicator Prepend SpacingMark L V T LV LVT Extended_Pictographic".split()

# UnicodeData.txt
category = [0] * SIZE
ccc = [0] * SIZE
canonical, compatible, lower = {}, {}, {}
first = None
with open(os.path.join(root, "UnicodeData.txt"), encoding="utf-8") as f:
    for line in f:
        fields = line.rstrip("\n").split(";")
        cp = int(fields[0], 16)
        if fields[1].endswith("First>"):
            first = cp
            continue
        for c in range(first if first is not None else cp, cp + 1):
            category[c] = CATEGORIES.index(fields[2])
            ccc[c] = int(fields[3])
        first = None
        if fields[5].startswith("<"):
            compatible[cp] = points(fields[5].split("> ")[1])
        elif fields[5]:
            canonical[cp] = points(fields[5])
        if fields[13]:
            lower[cp] = [int(fields[13], 16)]

for code, low, _title, _upper, *rest in lines("SpecialCasing.txt"):
    if not (rest and rest[0]):  # unconditional mappings only
        if points(low) != [int(code, 16)]:
            lower[int(code, 16)] = points(low)

fold = {}
for code, status, mapping, *_ in lines("CaseFolding.txt"):
    if status in "CS" and [int(mapping, 16)] != lower.get(int(code, 16)):
        fold[int(code, 16)] = int(mapping, 16)

alphabetic, space = set(), set()
for field, name, *_ in lines("DerivedCoreProperties.txt"):
    if name == "Alphabetic":
        alphabetic.update(span(field))
for field, name, *_ in lines("PropList.txt"):
    if name == "White_Space":
        space.update(span(field))

quick = {"NFC_QC": set(), "NFD_QC": set(), "NFKC_QC": set(), "NFKD_QC": set()}
excluded = set()
for field, name, *rest in lines("DerivedNormalizationProps.txt"):
    if name in quick:
        quick[name].update(span(field))
    if name == "Full_Composition_Exclusion":
        excluded.update(span(field))

breaks = [0] * SIZE
for field, name, *_ in lines("emoji/emoji-data.txt"):
    if name == "Extended_Pictographic":
        for c in span(field):
            breaks[c] = BREAKS.index(name)
for field, name, *_ in lines("auxiliary/GraphemeBreakProperty.txt"):
    for c in span(field):
        breaks[c] = BREAKS.index(name)

scripts, names = [], []
for field, name, *_ in lines("Scripts.txt"):
    r = span(field)
    if name not in names:
        names.append(name)
    scripts.append([r[0], r[-1], names.index(name)])
scripts.sort()
merged = []
for s in scripts:
    if merged and merged[-1][1] + 1 == s[0] and merged[-1][2] == s[2]:
        merged[-1][1] = s[1]
    else:
        merged.append(s)


# What is younger than Unicode 8.0 or 9.0: the reference implementation of tokenizers has some tables of that age.
age = [0] * SIZE
for field, version_of, *_ in lines("DerivedAge.txt"):
    for c in span(field):
        age[c] = int(version_of.split(".")[0])
young = []
for c in range(SIZE):
    if age[c] > 8:
        now = min(age[c], 10)
        if young and young[-1][2] == now and all(age[x] == 0 for x in range(young[-1][1] + 1, c)):
            young[-1][1] = c
        else:
            young.append([c, c, now])


def full(cp, table):
    if cp not in table:
        return [cp]
    return [d for c in table[cp] for d in full(c, table)]


either = {**canonical, **compatible}
pool, rows = [], []
position = {}


def keep(sequence):
    key = tuple(sequence)
    if key not in position:
        position[key] = len(pool)
        pool.extend(sequence)
    return position[key], len(sequence)


for cp in sorted(either):
    nfd, nfkd = full(cp, canonical), full(cp, either)
    # Canonical ordering within the mapping is left to the caller, who sorts marks anyway.
    a, b = keep(nfd), keep(nfkd)
    rows.append((cp, a[0], b[0], a[1], b[1]))

pairs = sorted((m[0], m[1], cp) for cp, m in canonical.items() if len(m) == 2 and cp not in excluded)

value = [
    category[c]
    | (c in alphabetic) << 5
    | (c in space) << 6
    | (c in quick["NFC_QC"]) << 7
    | (c in quick["NFD_QC"]) << 8
    | (c in quick["NFKC_QC"]) << 9
    | (c in quick["NFKD_QC"]) << 10
    | (c in lower) << 11
    | breaks[c] << 12
    for c in range(SIZE)
]
for c in range(0xAC00, 0xAC00 + 11172):  # decomposed by arithmetic
    value[c] |= 1 << 8 | 1 << 10


def stages(values, block):
    seen, index, data = {}, [], []
    for start in range(0, SIZE, block):
        chunk = tuple(values[start : start + block])
        if chunk not in seen:
            seen[chunk] = len(data) // block
            data.extend(chunk)
        index.append(seen[chunk])
    return index, data


out = []


def array(kind, name, values, note=""):
    out.append(f"inline constexpr {kind} {name}[] = {{{'  // ' + note if note else ''}")
    line = "   "
    for v in values:
        text = f" {v},"
        if len(line) + len(text) > 130:
            out.append(line)
            line = "   "
        line += text
    out.append(line)
    out.append("};")


def rows_of(kind, name, values):
    array(kind, name, ["{" + ",".join(str(x) for x in row) + "}" for row in values])


index, data = stages(value, 128)
array("std::uint8_t" if max(index) < 256 else "std::uint16_t", "property_index", index, "code point / 128 -> block")
array("std::uint16_t", "property_data", data,
      "category 0-4, Alphabetic 5, White_Space 6, not NFC NFD NFKC NFKD 7-10, has lower case 11, grapheme break 12-15")
index, data = stages(ccc, 128)
array("std::uint8_t", "combining_index", index)
array("std::uint8_t", "combining_data", data)
out.append("struct Decomposition { std::uint32_t code; std::uint16_t canonical, compatible; std::uint8_t canonical_size, compatible_size; };")
rows_of("Decomposition", "decompositions", rows)
array("std::uint32_t", "decomposition_pool", pool)
out.append("struct Composition { std::uint32_t first, second, composed; };")
rows_of("Composition", "compositions", pairs)
out.append("struct CaseMapping { std::uint32_t code, to, then; };  // `then`: second code point or 0")
rows_of("CaseMapping", "lowercase", [(c, *(m + [0])[:2]) for c, m in sorted(lower.items())])
rows_of("CaseMapping", "casefold", [(c, m, 0) for c, m in sorted(fold.items())])
out.append("struct YoungRange { std::uint32_t first, last, version; };  // 9: Unicode 9.0; 10: later; unassigned code points may lie between")
rows_of("YoungRange", "young_ranges", young)
out.append("struct ScriptRange { std::uint32_t first, last; std::uint16_t script; };")
rows_of("ScriptRange", "script_ranges", merged)
array("const char* const", "script_names", [f'"{n}"' for n in names])

assert max(len(m) for m in lower.values()) <= 2 and len(pool) < 65536
print(f"""/// Unicode {version}: tables written by unicode_tables.py from the Unicode Character Database. Not edited by hand.
// Data from the Unicode Character Database, Copyright Unicode, Inc., under the Unicode License (https://www.unicode.org/license.txt).
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>

// clang-format off
namespace chiasm::inline CHIASM_ABI {{
namespace unicode::tables {{
inline constexpr char version[] = "{version}";""")
print("\n".join(out))
print("}  // namespace unicode::tables\n}  // namespace chiasm")
