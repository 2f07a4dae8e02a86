/// The fuzz targets without a fuzzer: each file of the given folders, and each of its truncations at a few places, is one input.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int count, char** arguments) {
  constexpr std::uintmax_t largest = 256 * 1024;
  std::size_t inputs = 0;
  for (int i = 1; i < count; ++i) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(arguments[i])) {
      if (!entry.is_regular_file() || entry.file_size() > largest) continue;
      std::ifstream stream(entry.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
      for (const std::size_t parts : {1u, 2u, 3u, 5u}) {
        // A buffer of exactly this size, so that AddressSanitizer sees a read past the end.
        const std::vector<char> input(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / parts));
        LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
        ++inputs;
      }
    }
  }
  std::printf("%zu inputs\n", inputs);
  return inputs == 0;
}
