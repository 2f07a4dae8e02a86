/// Result: a case's tensors and runs, by the family that it is of.
#pragma once

#include "dual_encoder_case.hpp"
#include "open_flamingo_case.hpp"
#include "pipeline_case.hpp"
#include "retrieval_case.hpp"

#include <map>
#include <string>

namespace reference {

using nlohmann::ordered_json;

/// A case's tensors and runs, as this library computes them. Throws what reading the case or loading its model throws.
struct Result {
  Dump tensors;
  ordered_json runs = ordered_json::array();
  std::map<std::string, std::string> failed = {};  // inputs that ended in an error, and which
};
inline Result run_case(const Case& one) {
  Result result{Dump(read_expected(one.expected))};
  const std::string family = one.description.at("family");
  if (family == "clip" || family == "siglip") run_dual_encoder(one, result.tensors);
  else if (family == "blip2_itm") run_retrieval(one, result.tensors);
  else if (family == "open_flamingo") result.runs = run_flamingo(one, result.tensors, result.failed);
  else result.runs = run_pipeline(one, result.tensors, result.failed);
  return result;
}
inline Result run_case(const std::string& folder) { return run_case(open_case(folder)); }

}  // namespace reference
