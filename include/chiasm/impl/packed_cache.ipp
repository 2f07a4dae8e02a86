#pragma once

#include <chiasm/io/file_map.hpp>
#include <chiasm/io/packed_cache.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <system_error>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// What stands in a cache's file before the table of its tensors: all numbers little-endian, as the bits of weights are.
struct PackedHeader {
  char magic[8] = {'c', 'h', 'i', 'a', 's', 'm', 'p', 'k'};
  std::uint64_t version = 1;  // of this layout, of core/panel.hpp, and of what quantize() chooses
  std::uint64_t kind = 0, identity_low = 0, identity_high = 0;
  std::uint64_t tensors = 0, table_bytes = 0, file_bytes = 0;
  std::uint64_t checksum_low = 0, checksum_high = 0;  // of all that is before it, and of the table

  Digest checksum(std::span<const std::byte> table) const noexcept {
    ContentHash<> sum({});
    sum << std::as_bytes(std::span(this, 1)).first(offsetof(PackedHeader, checksum_low)) << table;
    return sum.digest();
  }
};
static_assert(sizeof(PackedHeader) == 80);

/// A tensor's entry in the table; its key follows.
struct PackedEntry {
  std::uint64_t offset = 0, bytes = 0;
  std::uint64_t rows = 0, columns = 0;  // of a matrix; other shapes as rows of their innermost dimension
  std::uint8_t dtype = 0, layout = 0;
  std::uint16_t key_bytes = 0;
  std::uint32_t padding = 0;
};
static_assert(sizeof(PackedEntry) == 40);

inline constexpr std::size_t packed_alignment = 4096;  // a tensor's pages are its own

/// The tensor of the file, and the name by which a model asks for it: parts of one tensor differ in the second, tensors of two files in the first.
inline std::string packed_key(std::string_view name, const Weight& stored, DType type, Layout layout) {
  std::string key = stored.name();
  key.append(1, '\n').append(name).append(1, '\n').append(stored.describe()).append(1, '\n').append(chiasm::name(type));
  return key.append(layout == Layout::panels ? " panels" : " rows");
}

inline std::string hexadecimal(std::uint64_t value) {
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[value >> shift & 15];
  return text;
}

/// What the system says of a file, to `sum`; false if it is none.
inline bool absorb_file(ContentHash<>& sum, const std::string& path) {
#if defined(__unix__) || defined(__APPLE__)
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return false;
#if defined(__APPLE__)
  const timespec changed[] = {status.st_mtimespec, status.st_ctimespec};
#else
  const timespec changed[] = {status.st_mtim, status.st_ctim};
#endif
  sum << static_cast<std::uint64_t>(status.st_dev) << static_cast<std::uint64_t>(status.st_ino) << static_cast<std::uint64_t>(status.st_size);
  for (const timespec& time : changed) sum << static_cast<std::uint64_t>(time.tv_sec) << static_cast<std::uint64_t>(time.tv_nsec);
  return true;
#else
  std::error_code error;
  const std::filesystem::path file(path);
  if (!std::filesystem::is_regular_file(file, error)) return false;
  sum << static_cast<std::uint64_t>(std::filesystem::file_size(file, error))
      << static_cast<std::uint64_t>(std::filesystem::last_write_time(file, error).time_since_epoch().count());
  return !error;
#endif
}

/// Removes what processes have left beside `path` that ended while they wrote it.
inline void remove_unfinished(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const std::string beginning = path.filename().string() + ".";
  for (fs::directory_iterator file(path.has_parent_path() ? path.parent_path() : fs::path("."), error), end; !error && file != end; file.increment(error)) {
    const std::string name = file->path().filename().string();
    if (!name.starts_with(beginning) || !name.ends_with(".part")) continue;
    std::error_code gone;
    if (file->last_write_time(gone) < fs::file_time_type::clock::now() - std::chrono::hours(1) && !gone) fs::remove(file->path(), gone);
  }
}

inline void absorb_text(ContentHash<>& sum, std::string_view text) { sum << static_cast<std::uint64_t>(text.size()) << std::as_bytes(std::span(text.data(), text.size())); }

}  // namespace detail

CHIASM_INLINE std::optional<WeightsIdentity> WeightsIdentity::of(const Weights& weights) {
  ContentHash<> sum({});
  std::vector<WeightError> findings;
  const Weights stored = weights.noting(findings);  // converts nothing
  std::set<std::string> files;
  for (const std::string& name : stored.names()) {
    const Weight weight = stored.stored(name);
    files.insert(weight.file());
    for (const std::string& text : {name, weight.name(), weight.describe()}) detail::absorb_text(sum, text);
    constexpr std::size_t sample = 256;
    const std::span bytes(weight.data(), weight.bytes());
    if (bytes.size() <= 3 * sample) {
      sum << bytes;
      continue;
    }
    for (const std::size_t at : {std::size_t{0}, bytes.size() / 2, bytes.size() - sample}) sum << bytes.subspan(at, sample);
    detail::release_pages(weight.owner(), bytes.data(), bytes.size());  // a page asked for brings its neighbours, of which there may be many
  }
  for (const std::string& file : files)
    if (!detail::absorb_file(sum, file)) return std::nullopt;
  return WeightsIdentity{sum.digest(), {files.begin(), files.end()}};
}

struct PackedCache::State {
  struct Entry {
    Weight weight;
    bool added = false;
  };
  std::string path;
  std::vector<std::string> files;
  detail::PackedHeader header;
  mutable std::mutex mutex;
  std::map<std::string, Entry, std::less<>> entries;
  bool changed = false;

  bool speaks_of(const Weight& stored) const { return std::binary_search(files.begin(), files.end(), stored.file()); }

  /// The tensors of the file, or none. Nothing in it is believed before it has been checked against the file's size.
  void read() {
    const FileMap file = FileMap::open(path);
    detail::PackedHeader found;
    if (file.size() < sizeof found) return;
    std::memcpy(&found, file.data(), sizeof found);
    if (std::memcmp(found.magic, header.magic, sizeof found.magic) != 0 || found.version != header.version || found.kind != header.kind ||
        found.identity_low != header.identity_low || found.identity_high != header.identity_high || found.file_bytes != file.size() ||
        found.table_bytes > file.size() - sizeof found)
      return;
    const std::span table = file.bytes().subspan(sizeof found, static_cast<std::size_t>(found.table_bytes));
    const Digest checksum = found.checksum(table);
    if (checksum.low != found.checksum_low || checksum.high != found.checksum_high) return;
    std::map<std::string, Entry, std::less<>> tensors;
    std::span<const std::byte> rest = table;
    for (std::uint64_t i = 0; i < found.tensors; ++i) {
      detail::PackedEntry entry;
      if (rest.size() < sizeof entry) return;
      std::memcpy(&entry, rest.data(), sizeof entry);
      rest = rest.subspan(sizeof entry);
      if (rest.size() < entry.key_bytes || entry.dtype > static_cast<std::uint8_t>(DType::boolean) || entry.layout > static_cast<std::uint8_t>(Layout::panels)) return;
      std::string key(reinterpret_cast<const char*>(rest.data()), entry.key_bytes);
      rest = rest.subspan(entry.key_bytes);
      if (entry.offset > file.size() || entry.bytes > file.size() - entry.offset || entry.offset % detail::packed_alignment != 0) return;
      const auto type = static_cast<DType>(entry.dtype);
      const bool panels = entry.layout == static_cast<std::uint8_t>(Layout::panels);
      // Sizes that divide into one another: no product of them goes beyond 64 bits unseen.
      if ((panels && !has_panels(type)) || entry.rows > entry.bytes || entry.columns > std::uint64_t{1} << 40) return;
      const auto rows = static_cast<std::size_t>(entry.rows), columns = static_cast<std::size_t>(entry.columns);
      const std::size_t units = panels ? (rows + panel_outputs - 1) / panel_outputs : rows, unit = panels ? panel_bytes(type, columns) : row_bytes(type, columns);
      if (units != 0 && unit > entry.bytes / units) return;
      const Weight weight("", type, Shape{rows, columns}, file.data() + entry.offset, file.owner(), path, panels ? Layout::panels : Layout::rows);
      if (weight.bytes() != entry.bytes) return;
      tensors.emplace(std::move(key), Entry{weight, false});
    }
    entries = std::move(tensors);
  }

  void write_file(const std::string& to) {
    std::vector<std::byte> table;
    const auto append = [&](const void* from, std::size_t bytes) {
      const auto* const begin = static_cast<const std::byte*>(from);
      table.insert(table.end(), begin, begin + bytes);
    };
    std::size_t table_bytes = 0;
    for (const auto& [key, entry] : entries) table_bytes += sizeof(detail::PackedEntry) + key.size();
    const auto aligned = [](std::size_t at) { return (at + detail::packed_alignment - 1) / detail::packed_alignment * detail::packed_alignment; };
    std::size_t at = aligned(sizeof(detail::PackedHeader) + table_bytes);
    for (const auto& [key, entry] : entries) {
      const Weight& weight = entry.weight;
      detail::PackedEntry line;
      line.offset = at, line.bytes = weight.bytes(), line.rows = weight.shape().rows(), line.columns = weight.shape().columns();
      line.dtype = static_cast<std::uint8_t>(weight.dtype()), line.layout = static_cast<std::uint8_t>(weight.layout());
      line.key_bytes = static_cast<std::uint16_t>(key.size());
      append(&line, sizeof line);
      append(key.data(), key.size());
      at = aligned(at + weight.bytes());
    }
    detail::PackedHeader written = header;
    written.tensors = entries.size(), written.table_bytes = table.size(), written.file_bytes = at;
    const Digest checksum = written.checksum(table);
    written.checksum_low = checksum.low, written.checksum_high = checksum.high;

    struct Closed {
      std::FILE* file;
      ~Closed() {
        if (file != nullptr) std::fclose(file);
      }
    } out{std::fopen(to.c_str(), "wbx")};
    if (out.file == nullptr) throw FileError(to, "cannot be made");
    std::size_t done = 0;
    const auto put = [&](const void* from, std::size_t bytes) {
      if (bytes != 0 && std::fwrite(from, 1, bytes, out.file) != bytes) throw FileError(to, "cannot be written");
      done += bytes;
    };
    const std::vector<std::byte> zeros(detail::packed_alignment);
    const auto fill = [&] { put(zeros.data(), aligned(done) - done); };
    put(&written, sizeof written);
    put(table.data(), table.size());
    fill();
    for (const auto& [key, entry] : entries) {
      put(entry.weight.data(), entry.weight.bytes());
      fill();
    }
    bool ok = std::fflush(out.file) == 0;
#if defined(__unix__) || defined(__APPLE__)
    ok = ok && ::fsync(::fileno(out.file)) == 0;  // before the name: a crash must not leave a name without its content
#endif
    ok = std::fclose(std::exchange(out.file, nullptr)) == 0 && ok;
    if (!ok) throw FileError(to, "cannot be written");
  }
};

CHIASM_INLINE PackedCache::PackedCache(std::string path, WeightsIdentity identity, WeightKind kind) : state_(std::make_unique<State>()) {
  state_->path = std::move(path);
  state_->header.kind = static_cast<std::uint64_t>(kind);
  state_->header.identity_low = identity.digest.low;
  state_->header.identity_high = identity.digest.high;
  state_->files = std::move(identity.files);
  try {
    state_->read();
  } catch (const Error&) {  // not there, or not readable
  }
}
CHIASM_INLINE PackedCache::~PackedCache() = default;

CHIASM_INLINE std::string PackedCache::path_in(const std::string& folder, const std::string& name, WeightKind kind) {
  std::error_code error;
  std::filesystem::path whole = std::filesystem::weakly_canonical(std::filesystem::path(name), error);
  if (error) whole = name;
  ContentHash<> sum({});
  detail::absorb_text(sum, whole.string());
  constexpr std::string_view kinds[] = {"keep", "f32", "bf16", "q8", "q4", "i8"};
  std::string file = whole.filename().string() + "-" + detail::hexadecimal(sum.digest().low) + "-" + std::string(kinds[static_cast<std::size_t>(kind)]) + ".packed";
  return (std::filesystem::path(folder) / file).string();
}

CHIASM_INLINE std::optional<Weight> PackedCache::find(std::string_view name, const Weight& stored, DType type, Layout layout) {
  const std::lock_guard lock(state_->mutex);
  const auto known = state_->entries.find(detail::packed_key(name, stored, type, layout));
  if (known == state_->entries.end() || !state_->speaks_of(stored)) return std::nullopt;
  const Weight& weight = known->second.weight;
  const Weight found(stored.name(), type, stored.shape(), weight.data(), weight.owner(), stored.file(), layout);
  if (weight.dtype() != type || weight.layout() != layout || weight.shape().columns() != found.shape().columns() || found.bytes() != weight.bytes()) return std::nullopt;
  return found;
}

CHIASM_INLINE void PackedCache::add(std::string_view name, const Weight& stored, const Weight& converted) {
  std::string key = detail::packed_key(name, stored, converted.dtype(), converted.layout());
  if (key.size() > UINT16_MAX || !state_->speaks_of(stored)) return;
  const std::lock_guard lock(state_->mutex);
  state_->changed = state_->entries.insert_or_assign(std::move(key), State::Entry{converted, true}).second || state_->changed;
}

CHIASM_INLINE bool PackedCache::write() noexcept {
  const std::lock_guard lock(state_->mutex);
  if (!state_->changed) return true;
  state_->changed = false;
  bool ok = false;
  try {
    namespace fs = std::filesystem;
    const fs::path path(state_->path);
    std::error_code error;
    if (path.has_parent_path()) fs::create_directories(path.parent_path(), error);
    detail::remove_unfinished(path);
    // A name that no other thread or process has.
    static std::atomic<std::uint64_t> count{0};
    ContentHash<> sum({});
    sum << static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) << count.fetch_add(1);
#if defined(__unix__) || defined(__APPLE__)
    sum << static_cast<std::uint64_t>(::getpid());
#endif
    const std::string temporary = state_->path + "." + detail::hexadecimal(sum.digest().low) + ".part";
    try {
      state_->write_file(temporary);
      fs::rename(temporary, path);
      ok = true;
    } catch (...) {
      fs::remove(temporary, error);
    }
  } catch (...) {  // no memory for a name
  }
  std::erase_if(state_->entries, [](const auto& entry) { return entry.second.added; });
  return ok;
}

CHIASM_INLINE std::size_t PackedCache::size() const {
  const std::lock_guard lock(state_->mutex);
  return state_->entries.size();
}

}  // namespace chiasm
