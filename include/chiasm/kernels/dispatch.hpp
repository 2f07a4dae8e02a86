/// Dispatch: the kernels that this processor can run, chosen when the program runs.
#pragma once

#include <chiasm/kernels/table.hpp>

#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {
namespace kernels {

/// The tiers that this processor has, slowest first. scalar and portable are always there.
std::vector<Isa> available();

/// All tables that this processor can run, for tests: a tier with an optional instruction set (VNNI) has one with it and one without.
std::vector<const Table*> tables();

/// The tier's kernels. Throws ArgumentError, naming what there is, if this processor lacks it.
const Table& table(Isa isa);

/// The kernels of the tier called `requested`; where that is empty, of the one that the environment variable CHIASM_ISA names, or
/// else the best. Throws ArgumentError, naming what there is, for an unknown tier and for one that this processor lacks.
const Table& active(std::string_view requested = {});
/// The kernels of tier `requested`, or of the one that CHIASM_ISA names if that is lower. Throws ArgumentError as above.
const Table& active(Isa requested);

}  // namespace kernels
}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/dispatch.ipp>
#endif
