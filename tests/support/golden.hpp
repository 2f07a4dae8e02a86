/// Runs a reference case, as chiasm_inspect does.
#pragma once

#include "../../examples/reference_case.hpp"

namespace golden = reference;
