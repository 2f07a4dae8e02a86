// From nothing to the first token: a GGUF file that the system has read before, a prompt of 16 tokens. Once per process, for memory counts too:
// prints one line of JSON for bench/peers/run.py. With a second folder, from and to a cache of packed weights there.
#include <chiasm/core/context.hpp>
#include <chiasm/pipelines/pipeline.hpp>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

/// Bytes of a line of /proc/self/status; 0 where there is none.
double memory(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(field + ":", 0) == 0) return 1024 * std::stod(line.substr(field.size() + 1));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace chiasm;
  if (argc < 2 || argc > 3) {
    std::fputs("start_bench FILE.gguf [PACKED_CACHE]\n", stderr);
    return 2;
  }
  try {
    const double before = memory("VmRSS");
    const auto begin = std::chrono::steady_clock::now();
    const auto since = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
    LoadOptions options;
    options.compute = Compute::bf16;
    if (argc == 3) options.packed_cache = argv[2];
    const Pipeline pipeline = load(argv[1], options);
    const double loaded = since();
    const LanguageModel& lm = pipeline.language_model();
    Context ctx = pipeline.new_context();
    KvCache cache = lm.new_cache();
    std::vector<TokenId> ids(16);
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<TokenId>(1 + i * 7919 % 31000);
    const Tensor hidden = lm.forward(ctx, lm.embed(ctx, ids), cache);
    const Tensor logits = lm.logits(ctx, hidden.slice(ids.size() - 1, 1));
    const double seconds = since();
    std::printf("{\"seconds\": %f, \"loaded\": %f, \"memory\": %.0f, \"file\": %ju, \"logit\": %g}\n", seconds, loaded, memory("VmHWM") - before,
                static_cast<std::uintmax_t>(std::filesystem::file_size(argv[1])), static_cast<double>(logits.data()[0]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
