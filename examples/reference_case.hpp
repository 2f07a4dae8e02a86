/// Runs a reference case (tests/golden/cases/*, what models/dump_reference.py writes, any folder of that form): its inputs, its generations, and the
/// tensors on the way. chiasm_inspect and the tests compare them with the reference's, golden_dump writes them down.
#pragma once

#include "reference/comparison.hpp"
#include "reference/result.hpp"
