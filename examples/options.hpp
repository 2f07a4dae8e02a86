/// What the examples share: the options of loading and generating, a progress line, Ctrl-C that stops the answer and not the program.
#pragma once

#include <chiasm/chiasm.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace examples {

/// The small models and pictures that come with the library.
inline std::string bundled(const std::string& relative) { return std::string(CHIASM_EXAMPLES_DIR) + "/" + relative; }

inline bool is_terminal(int descriptor) {
#if defined(__unix__) || defined(__APPLE__)
  return isatty(descriptor) != 0;
#else
  (void)descriptor;
  return false;
#endif
}

/// One line on standard error that is written over: `label [####    ] 3/10 name`. Silent where standard error is no terminal.
class Progress {
 public:
  explicit Progress(std::string label) : label_(std::move(label)), shown_(is_terminal(2)) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void operator()(std::string_view what, std::size_t done, std::size_t total) {
    if (!shown_ || total == 0) return;
    const std::size_t filled = done * 30 / total;
    std::string bar(30, ' ');
    bar.replace(0, filled, filled, '#');
    std::fprintf(stderr, "\r\033[K%s [%s] %zu/%zu %.*s", label_.c_str(), bar.c_str(), done, total, static_cast<int>(what.size()), what.data());
    std::fflush(stderr);
  }
  void clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }

 private:
  std::string label_;
  bool shown_;
};

/// Ctrl-C while an answer runs cancels it; a second one ends the program as usual.
class Interrupt {
 public:
  explicit Interrupt(chiasm::CancelToken& token) {
    current() = &token;
    previous_ = std::signal(SIGINT, [](int) {
      std::signal(SIGINT, SIG_DFL);
      if (current() != nullptr) current()->cancel();  // a store to an atomic: safe in a handler
    });
  }
  ~Interrupt() {
    std::signal(SIGINT, previous_);
    current() = nullptr;
  }
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

 private:
  static chiasm::CancelToken*& current() {
    static chiasm::CancelToken* token = nullptr;
    return token;
  }
  void (*previous_)(int);
};

struct Options {
  std::string model, mmproj;
  std::size_t threads = 0;
  std::string isa;
  std::string weights = "keep", compute = "f32", kv = "auto", packed_cache;
  chiasm::GenerateOptions generate;
  bool json = false;

  Options(CLI::App& app, std::string default_model) : model(std::move(default_model)) {
    app.set_version_flag("--version", CHIASM_VERSION);
    model_given_ = app.add_option("-m,--model", model, "Folder of a checkpoint in the Hugging Face layout, or a GGUF file")->capture_default_str()->check(CLI::ExistingPath);
    app.add_option("--mmproj", mmproj, "GGUF file with the vision tower of a GGUF model (by default the one beside it that fits)")->check(CLI::ExistingFile);
    app.add_option("--threads", threads, "Threads (0: CHIASM_THREADS, or else all processors)")->capture_default_str()->check(CLI::Range(0, 1024));
    app.add_option("--isa", isa, "Kernels: scalar, portable, avx2, avx512, amx (empty: CHIASM_ISA, or else the best)");
    app.add_option("--weights", weights, "Convert weights while loading: q8 and q4 quantise matrices to 8.5 and 4.5 bits a number, i8 to bytes with a scale a row")
        ->capture_default_str()
        ->check(CLI::IsMember({"keep", "f32", "bf16", "q8", "q4", "i8"}));
    app.add_option("--compute", compute, "Precision inside matrix products: bf16 is faster where the processor has AMX, and i8, with --weights i8, faster still")
        ->capture_default_str()
        ->check(CLI::IsMember({"f32", "bf16", "i8"}));
    app.add_option("--kv", kv, "Keys and values of what was read: auto is f32 under --compute f32, else bf16; q8 takes a quarter of f32's memory")
        ->capture_default_str()
        ->check(CLI::IsMember({"auto", "f32", "bf16", "q8"}));
    app.add_option("--packed-cache", packed_cache, "Folder where converted weights are kept: the next start takes them from there");
    app.add_flag("--json", json, "Print JSON lines");
  }

  /// One of the bundled models in place of a folder.
  void add_style(CLI::App& app) {
    app.add_option_function<std::string>("--style", [this](const std::string& style) { model = bundled("models/shapes-" + style); }, "A bundled model: llava, blip2 or flamingo")
        ->check(CLI::IsMember({"llava", "blip2", "flamingo"}))
        ->excludes(model_given_);
  }

  void add_generation(CLI::App& app) {
    app.add_option("-n,--max-new-tokens", generate.max_new_tokens, "Most tokens of an answer")->check(CLI::PositiveNumber);
    app.add_option("--temperature", temperature_, "Sample with this temperature instead of taking the likeliest token")->check(CLI::PositiveNumber);
    app.add_option("--top-k", generate.top_k, "Sample among the k likeliest tokens");
    app.add_option("--top-p", generate.top_p, "Sample among the likeliest tokens of this total probability")->check(CLI::Range(0.0, 1.0));
    app.add_option("--seed", generate.seed, "Seed of the sampling");
    app.add_option("--beams", generate.num_beams, "Beam search of this width")->check(CLI::Range(1, 64));
    app.add_option("--repetition-penalty", generate.repetition_penalty, "Penalty of tokens that have been there")->check(CLI::PositiveNumber);
    app.add_flag("--lookup{8}", lookup_, "Guess up to 8 (--lookup=N: N) tokens at a time from what was said before: the same answer, faster where it repeats");
    app.add_option("--draft-model", draft_model_, "A smaller model of the same vocabulary that guesses tokens: the same answer, faster where it guesses well")
        ->check(CLI::ExistingPath);
    app.add_option("--stop", stop_, "End the answer before this text (may be given several times)")->allow_extra_args(false);
    auto* const held = app.add_option_group("held to", "What the answer may be");
    held->add_option("--choices", choices_, "One of these, as in red,green,blue")->delimiter(',')->allow_extra_args(false);
    held->add_option("--regex", regex_, "What this regular expression matches");
    held->add_option("--json-schema", json_schema_, "A JSON document of the schema in this file")->check(CLI::ExistingFile);
    held->require_option(0, 1);
  }

  /// The options as the library takes them.
  chiasm::GenerateOptions generation() const {
    chiasm::GenerateOptions options = generate;
    if (temperature_) {
      options.temperature = temperature_;
      options.do_sample = true;
    } else if (generate.top_k || generate.top_p || generate.seed) {
      options.do_sample = true;
    }
    if (lookup_ > 0) options.lookup.emplace().max_tokens = lookup_;
    if (draft_) options.draft = &*draft_;
    if (!stop_.empty()) options.stop = stop_;
    if (!choices_.empty()) options.constraint = chiasm::Constraint::choices(choices_);
    if (!regex_.empty()) options.constraint = chiasm::Constraint::regex(regex_);
    if (!json_schema_.empty()) options.constraint = chiasm::Constraint::json_schema(chiasm::Json::read(json_schema_));
    return options;
  }

  chiasm::LoadOptions loading(Progress& progress, bool sees = true) const {
    chiasm::LoadOptions options;
    using Kind = chiasm::WeightKind;
    options.weights = weights == "q4" ? Kind::q4 : weights == "i8" ? Kind::i8 : weights == "q8" ? Kind::q8 : weights == "bf16" ? Kind::bf16 : weights == "f32" ? Kind::f32 : Kind::keep;
    options.compute = compute == "i8" ? chiasm::Compute::i8 : compute == "bf16" ? chiasm::Compute::bf16 : chiasm::Compute::f32;
    using Kv = chiasm::KvKind;
    options.kv = kv == "q8" ? Kv::q8 : kv == "bf16" ? Kv::bf16 : kv == "f32" ? Kv::f32 : Kv::automatic;
    options.threads = threads;
    options.isa = isa;
    options.packed_cache = packed_cache;
    if (sees) options.mmproj = mmproj;
    options.on_progress = [&progress](std::string_view file, std::size_t done, std::size_t total) { progress(file, done, total); };
    return options;
  }

  /// The draft model too, if there is to be one.
  chiasm::Pipeline load() {
    Progress progress("loading");
    if (!draft_model_.empty()) draft_ = chiasm::load(draft_model_, loading(progress, false));
    return chiasm::load(model, loading(progress));
  }

 private:
  CLI::Option* model_given_ = nullptr;
  std::optional<double> temperature_;
  std::size_t lookup_ = 0;
  std::string draft_model_;
  std::optional<chiasm::Pipeline> draft_;
  std::vector<std::string> stop_, choices_;
  std::string regex_, json_schema_;
};

/// A reply as a JSON line's members.
inline nlohmann::ordered_json describe(const chiasm::Reply& reply) {
  const double decode = reply.times.decode_seconds;
  nlohmann::ordered_json line = {{"text", reply.text},
          {"finish_reason", chiasm::to_string(reply.finish_reason)},
          {"prompt_tokens", reply.prompt_tokens},
          {"reused_tokens", reply.reused_tokens},
          {"new_tokens", reply.ids.size()},
          {"seconds_to_first_token", reply.prepare_seconds + reply.times.prefill_seconds},
          {"tokens_per_second", decode > 0 ? static_cast<double>(reply.times.decode_tokens) / decode : 0.0}};
  if (reply.times.proposed_tokens > 0) line["guessed_tokens"] = {{"all", reply.times.proposed_tokens}, {"right", reply.times.accepted_tokens}};
  return line;
}

inline void print_json(const nlohmann::ordered_json& line, std::ostream& out = std::cout) {
  out << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
}

/// Runs a program's body: what the library throws becomes a message and exit status 1.
template <class Body>
int run(CLI::App& app, int count, char** arguments, Body body) {
  try {
    app.parse(count, arguments);
    return body();
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), error.what());
    return 1;
  }
}

}  // namespace examples
