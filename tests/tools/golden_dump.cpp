/// golden_dump CASE_DIR OUT_DIR: runs a reference case and writes what came out, for a script to compare: OUT_DIR/actual.safetensors, with the
/// tensor names of the case's expected.safetensors, and OUT_DIR/runs.json.
#include "support/golden.hpp"

#include <cstdio>

int main(int count, char** arguments) {
  if (count != 3) {
    std::fprintf(stderr, "usage: golden_dump CASE_DIR OUT_DIR\n");
    return 2;
  }
  try {
    const std::string out = arguments[2];
    const golden::Result result = golden::run_case(arguments[1]);
    std::filesystem::create_directories(out);
    result.tensors.write(out + "/actual.safetensors");
    std::ofstream(out + "/runs.json") << result.runs.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "golden_dump: %s\n", error.what());
    return 1;
  }
}
