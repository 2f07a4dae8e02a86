#pragma once

#include <chiasm/core/mapped_file.hpp>
#include <chiasm/io/file_map.hpp>

#include <limits>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#else
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>
#endif

namespace chiasm::inline CHIASM_ABI {

#if defined(__unix__) || defined(__APPLE__)

CHIASM_INLINE FileMap FileMap::open(const std::string& path) {
  struct Descriptor {
    int number;
    ~Descriptor() {
      if (number >= 0) ::close(number);
    }
  };
  const auto refuse = [&](int error) { throw FileError(path, "cannot be read: " + std::generic_category().message(error)); };
  if (path.find('\0') != std::string::npos) throw FileError(path, "a file name with a NUL byte");
  // O_NONBLOCK: opening a FIFO that nobody writes to must not wait.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) refuse(errno);
  struct stat status {};
  if (::fstat(file.number, &status) != 0) refuse(errno);
  if (S_ISDIR(status.st_mode)) throw FileError(path, "is a folder, expected a file");
  if (!S_ISREG(status.st_mode)) throw FileError(path, "is not a regular file");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size == 0) return FileMap({}, path);
  if (size > static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max())) refuse(EFBIG);
  const auto length = static_cast<std::size_t>(size);
  void* const map = ::mmap(nullptr, length, PROT_READ, MAP_PRIVATE, file.number, 0);
  if (map == MAP_FAILED) refuse(errno);
  std::shared_ptr<const void> owner(map, detail::Unmap{length});
  return FileMap({static_cast<const std::byte*>(map), length}, path, std::move(owner));
}

#else

CHIASM_INLINE FileMap FileMap::open(const std::string& path) {
  std::error_code error;
  const std::filesystem::path where(path);
  if (std::filesystem::is_directory(where, error)) throw FileError(path, "is a folder, expected a file");
  if (!std::filesystem::is_regular_file(where, error)) throw FileError(path, error ? "cannot be read: " + error.message() : "is not a regular file");
  const std::uintmax_t size = std::filesystem::file_size(where, error);
  if (error || size > static_cast<std::uintmax_t>(std::numeric_limits<std::ptrdiff_t>::max())) throw FileError(path, "cannot be read: its size is not known");
  std::ifstream stream(where, std::ios::binary);
  const auto content = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(size));
  if (!stream.read(reinterpret_cast<char*>(content->data()), static_cast<std::streamsize>(size))) throw FileError(path, "cannot be read");
  return FileMap({content->data(), content->size()}, path, content);
}

#endif

}  // namespace chiasm
