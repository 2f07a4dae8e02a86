/// Headers: each compiles alone in both flavours and both compilers without a warning; all of them live in two translation
/// units of one program; and, with the compiled flavour, none drags in the standard library's heavy parts.
#include "support/catch.hpp"
#include "structure/source_tree.hpp"

#include <build.hpp>

namespace {

const std::string warnings = " -std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror ";

bool starts_with_any(const std::string& text, const std::vector<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) { return text.rfind(prefix, 0) == 0; });
}

std::vector<std::string> headers() {
  std::vector<std::string> files = library_files({".hpp"});
  // Fragments of one header; they are compiled with it.
  std::erase_if(files, [](const std::string& file) {
    return starts_with_any(file, {"impl/"}) || (!has_jpeg && file == "io/jpeg_turbo.hpp") || (!has_webp && file == "io/webp.hpp") ||
           (!has_hnswlib && file == "pipelines/hnsw_index.hpp");
  });
  return files;
}

/// Public headers in the sense of compile time: what a user's translation unit pays for with chiasm::compiled.
bool is_light(const std::string& file) { return !starts_with_any(file, {"kernels/target/", "kernels/portable.hpp", "interop/", "io/image_file.hpp", "io/jpeg_turbo.hpp", "io/webp.hpp", "pipelines/hnsw_index.hpp"}); }

/// Compiles a translation unit that is one header and nothing else.
Result compile_alone(const std::string& compiler, const std::string& unit, const std::string& header, const std::string& flags) {
  write_text(unit, "#include <chiasm/" + header + ">\n");
  return run(compiler + warnings + "-fsyntax-only " + flags + " " + include_flags + " " + unit);
}

std::string all_headers() {
  std::string text;
  for (const std::string& header : headers()) text += "#include <chiasm/" + header + ">\n";
  return text;
}

}  // namespace

TEST_CASE("each header compiles alone, bodies elsewhere", "[headers_compiled]") {
  const std::vector<std::string> heavy = {"/functional", "/regex", "/filesystem", "/thread", "/iostream", "/nlohmann/json.hpp", "/Eigen/Core", "/immintrin.h"};
  const std::string unit = std::string(scratch_dir) + "/compiled.cpp", dependencies = std::string(scratch_dir) + "/compiled.d";
  for (const std::string compiler : compilers) {
    for (const std::string& header : headers()) {
      const Result result = compile_alone(compiler, unit, header, "-DCHIASM_COMPILED -MD -MF " + dependencies);
      INFO(compiler << ": chiasm/" << header << "\n" << result.output);
      CHECK(result.status == 0);
      if (!is_light(header)) continue;
      std::string files = read_text(dependencies);
      std::replace(files.begin(), files.end(), '\\', ' ');
      std::istringstream stream(files);
      for (std::string file; stream >> file;) {
        INFO("pulls in " << file);
        CHECK(std::none_of(heavy.begin(), heavy.end(), [&](const std::string& part) { return file.ends_with(part); }));
      }
    }
  }
}

TEST_CASE("each header with a body of its own compiles alone, header-only", "[headers_only]") {
  const std::string unit = std::string(scratch_dir) + "/header_only.cpp";
  for (const std::string compiler : compilers) {
    for (const std::string& header : headers()) {
      if (read_library_file(header).find("#include <chiasm/impl/") == std::string::npos) continue;
      const Result result = compile_alone(compiler, unit, header, "");
      INFO(compiler << ": chiasm/" << header << "\n" << result.output);
      CHECK(result.status == 0);
    }
  }
}

TEST_CASE("all headers in two translation units of one program", "[two_units]") {
  const std::string scratch = std::string(scratch_dir) + "/two_units/";
  write_text(scratch + "one.cpp", all_headers() + "void other();\nint main() { other(); return chiasm::Json::parse(\"[1, 2]\").size() == 2 ? 0 : 1; }\n");
  write_text(scratch + "two.cpp", all_headers() + "void other();\nvoid other() { (void)chiasm::Json::parse(\"{}\").dump(); }\n");
  const std::string decoders = std::string(has_jpeg ? " -ljpeg" : "") + (has_webp ? " -lwebp" : "");
  for (const std::string flavour : {"", "-DCHIASM_COMPILED"}) {
    const std::string library = flavour.empty() ? "" : compiled_library;
    const Result result = run("cd " + scratch + " && " + compilers[0] + warnings + flavour + " -O0 " + include_flags + " one.cpp two.cpp -o both " + library + decoders +
                              " -pthread && ./both");
    INFO("flavour '" << flavour << "'\n" << result.output);
    CHECK(result.status == 0);
  }
}
