/// The reference collection's tokenizers, unpacked.
#pragma once

#include "support/paths.hpp"
#include "support/temporary_folder.hpp"

#include <cstdlib>
#include <optional>
#include <random>
#include <string>

/// The folder that holds them, which goes when the program ends. None if the archive is not there.
inline const std::optional<std::string>& reference_tokenizers() {
  struct Unpacked {
    std::optional<TemporaryFolder> folder;
    std::optional<std::string> path;
    Unpacked() {
      const auto archive = shared_data("io/tokenizers.tar.xz");
      if (!archive) return;
      folder.emplace("chiasm_tokenizers_" + std::to_string(std::random_device()()));
      const std::string command = "tar xJf '" + *archive + "' -C '" + folder->path.string() + "'";
      if (std::system(command.c_str()) == 0) path = (folder->path / "tokenizers").string();
    }
  };
  static const Unpacked unpacked;
  return unpacked.path;
}
