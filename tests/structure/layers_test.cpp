/// The layer rule, and what every file of the library promises: core <- kernels <- {io, nn} <- modules <- models <- pipelines.
#include "support/catch.hpp"
#include "structure/source_tree.hpp"

#include <map>
#include <set>

namespace {

const std::map<std::string, int> rank = {{"core", 0}, {"kernels", 1}, {"io", 2}, {"nn", 2}, {"modules", 3}, {"models", 4}, {"pipelines", 5}, {"interop", 6}};

std::string folder_of(const std::string& file) {
  const std::size_t slash = file.find('/');
  return slash == std::string::npos ? "" : file.substr(0, slash);
}

/// Which folder's layer a file has: its own, or, for impl/, that of the header which includes it.
std::map<std::string, std::set<std::string>> layers_of_files() {
  const std::vector<std::string> files = library_files({".hpp", ".ipp", ".inl"});
  std::map<std::string, std::set<std::string>> layers;
  for (const std::string& file : files)
    if (folder_of(file) != "impl") layers[file] = {folder_of(file)};
  // A body may be included by another body: as many rounds as it takes.
  for (bool changed = true; changed;) {
    changed = false;
    for (const std::string& file : files) {
      for (const std::string& name : includes_of(read_library_file(file))) {
        if (name.rfind("chiasm/impl/", 0) != 0) continue;
        std::set<std::string>& layer = layers[name.substr(7)];
        const std::size_t before = layer.size();
        layer.insert(layers[file].begin(), layers[file].end());
        changed = changed || layer.size() != before;
      }
    }
  }
  return layers;
}

bool may_include(const std::string& from, const std::string& to) {
  if (to.empty()) return false;
  return from == to || rank.at(to) < rank.at(from);
}

}  // namespace

TEST_CASE("an include points to the left", "[layers]") {
  const auto layers = layers_of_files();
  for (const auto& [file, from] : layers) {
    for (const std::string& layer : from) {
      if (layer.empty()) continue;  // the umbrella headers
      INFO("file " << file << ", layer " << layer);
      REQUIRE(rank.count(layer) == 1);
      for (const std::string& name : includes_of(read_library_file(file))) {
        if (name.rfind("chiasm/", 0) != 0 || name == "chiasm/version.hpp") continue;
        const auto included = layers.find(name.substr(7));
        INFO("includes " << name);
        REQUIRE(included != layers.end());
        // A Context holds the kernels of its instruction set: the one place where core looks to the right, and only in a body.
        if (file == "impl/context.ipp" && name == "chiasm/kernels/dispatch.hpp") continue;
        for (const std::string& to : included->second) CHECK(may_include(layer, to));
      }
    }
  }
}

TEST_CASE("every body belongs to a header", "[layers]") {
  const auto layers = layers_of_files();
  for (const std::string& file : library_files({".ipp", ".inl"})) {
    INFO(file);
    CHECK(!layers.at(file).empty());
  }
}

TEST_CASE("every header says what it is and is read once", "[layers]") {
  for (const std::string& file : library_files({".hpp"})) {
    INFO(file);
    const std::string text = read_library_file(file);
    CHECK(text.rfind("///", 0) == 0);
    CHECK(text.find("\n#pragma once\n") != std::string::npos);
  }
}

TEST_CASE("the umbrella header holds every public header but the optional ones", "[layers]") {
  const std::vector<std::string> names = includes_of(read_library_file("chiasm.hpp"));
  const std::set<std::string> included(names.begin(), names.end());
  for (const std::string& file : library_files({".hpp"})) {
    const std::string folder = folder_of(file);
    const bool expected = rank.count(folder) == 1 && folder != "kernels" && folder != "interop" && file != "io/image_file.hpp" && file != "io/jpeg_turbo.hpp" &&
                          file != "io/webp.hpp" && file != "pipelines/hnsw_index.hpp";
    if (!expected) continue;
    INFO(file);
    CHECK(included.count("chiasm/" + file) == 1);
  }
  CHECK(included.count("chiasm/io/image_file.hpp") == 0);
}

TEST_CASE("nothing prints, aborts or exits", "[layers]") {
  // `::name` or a plain call; a word boundary in front keeps `snprintf` and `on_exit` out.
  for (const std::string& file : library_files({".hpp", ".ipp", ".inl"})) {
    const std::string text = read_library_file(file);
    for (const std::string header : {"iostream", "cassert", "print"}) {
      INFO(file << " includes <" << header << ">");
      const std::vector<std::string> names = includes_of(text);
      // stb_image includes <cassert> by itself; its own assertions are redirected to exceptions.
      if (file != "impl/image/stb.hpp") CHECK(std::find(names.begin(), names.end(), header) == names.end());
    }
    for (const std::string word : {"abort(", "exit(", "_Exit(", "terminate(", "printf(", "puts(", "assert("}) {
      for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
        const char before = at == 0 ? ' ' : text[at - 1];
        const bool whole_word = std::isalnum(static_cast<unsigned char>(before)) == 0 && before != '_';
        const std::size_t line = text.rfind('\n', at) + 1;
        const bool comment = text.find("//", line) < at;
        INFO(file << ": " << text.substr(line, text.find('\n', at) - line));
        CHECK((!whole_word || comment));
      }
    }
  }
}

TEST_CASE("no header is included inside an instruction set's region", "[layers]") {
  for (const std::string& file : library_files({".hpp", ".ipp", ".inl"})) {
    if (file == "kernels/isa.hpp") continue;  // defines the macros
    bool inside = false;
    for (const std::string& line : lines_of(read_library_file(file))) {
      if (line.rfind("CHIASM_REGION_BEGIN", 0) == 0) inside = true;
      if (line.rfind("CHIASM_REGION_END", 0) == 0) inside = false;
      const bool is_include = line.rfind("#include", 0) == 0, is_body = line.find(".inl>") != std::string::npos;
      INFO(file << ": " << line);
      CHECK((!inside || !is_include || is_body));
      if (file.ends_with(".inl")) CHECK((!is_include || is_body));
    }
    CHECK(!inside);
  }
}
