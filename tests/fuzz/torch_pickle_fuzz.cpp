#include <chiasm/io/torch_pickle.hpp>

#include <cstdint>
#include <string_view>
#include <vector>

namespace {

void read(std::span<const std::byte> bytes) {
  try {
    for (const chiasm::Weight& weight : chiasm::TorchPickle::parse(chiasm::FileMap(bytes)).tensors) {
      // Reads every byte that the pickle promised. Many names may share one storage, so that a small file has much to read.
      if (weight.bytes() > 2 * bytes.size()) continue;
      try {
        weight.to_f32();
      } catch (const chiasm::UnsupportedError&) {
      }
    }
  } catch (const chiasm::Error&) {
  }
}

/// An archive of one stored file, so that a fuzzer that has only a pickle in hand need not find a directory.
std::vector<std::byte> archive_of(std::span<const std::byte> pickle) {
  const std::string_view name = "a/data.pkl";
  std::vector<std::byte> bytes;
  const auto put = [&](std::uint64_t value, std::size_t width) {
    for (std::size_t i = 0; i < width; ++i) bytes.push_back(static_cast<std::byte>(value >> (8 * i)));
  };
  const auto header = [&](std::uint32_t signature) {
    put(signature, 4);
    if (signature == 0x02014b50) put(0, 2);
    bytes.resize(bytes.size() + 14);  // version, flags, method, time, date, checksum
    put(pickle.size(), 4);
    put(pickle.size(), 4);
    put(name.size(), 2);
    bytes.resize(bytes.size() + (signature == 0x02014b50 ? 16 : 2));
    for (const char c : name) bytes.push_back(static_cast<std::byte>(c));
  };
  header(0x04034b50);
  bytes.insert(bytes.end(), pickle.begin(), pickle.end());
  const std::size_t directory = bytes.size();
  header(0x02014b50);
  const std::size_t size = bytes.size() - directory;
  put(0x06054b50, 4), put(0, 4), put(1, 2), put(1, 2), put(size, 4), put(directory, 4), put(0, 2);
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  read(bytes);
  read(archive_of(bytes));
  return 0;
}
