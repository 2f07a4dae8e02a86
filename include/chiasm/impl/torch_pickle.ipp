#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/io/safetensors.hpp>
#include <chiasm/io/torch_pickle.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

namespace chiasm::inline CHIASM_ABI {

namespace detail {

/// The entries of a zip archive as torch.save writes it: one folder of files that are stored, not compressed. (APPNOTE.TXT 4.3)
class TorchArchive {
 public:
  struct Entry {
    std::string_view name;
    std::size_t header = 0, begin = 0, size = 0;  // bytes of the file: where its local header is, where its data begin, how many they are
    bool encrypted = false;
    int compression = 0;
  };

  explicit TorchArchive(const FileMap& file) : file_(file) {
    constexpr std::size_t end_size = 22, end64_size = 56, locator_size = 20;
    refuse_other_formats();
    if (file.size() < end_size || at<std::uint32_t>(file.size() - end_size) != 0x06054b50)
      throw FormatError(file.path(), file.size(), "the archive does not end with its directory: the file is cut short, or there is more behind it");
    std::size_t end = file.size() - end_size;
    std::uint64_t count = at<std::uint16_t>(end + 10), size = at<std::uint32_t>(end + 12), begin = at<std::uint32_t>(end + 16);
    if (end >= locator_size && at<std::uint32_t>(end - locator_size) == 0x07064b50) {
      const std::uint64_t end64 = at<std::uint64_t>(end - locator_size + 8);
      if (end < locator_size + end64_size || end64 > end - locator_size - end64_size || at<std::uint32_t>(static_cast<std::size_t>(end64)) != 0x06064b50)
        throw FormatError(file.path(), end - locator_size, "the archive's zip64 directory is not where it says");
      end = static_cast<std::size_t>(end64);
      count = at<std::uint64_t>(end + 32), size = at<std::uint64_t>(end + 40), begin = at<std::uint64_t>(end + 48);
    }
    if (begin > end || size != end - begin)
      throw FormatError(file.path(), end, "the archive's directory says " + std::to_string(size) + " bytes from " + std::to_string(begin) + ", but ends here");
    read_directory(static_cast<std::size_t>(begin), end, count);
    find_root();
  }

  /// "checkpoint": the folder that everything lies in.
  std::string_view root() const noexcept { return root_; }
  /// A file below the root; null if it is not there. Throws UnsupportedError if its bytes are not what they stand for.
  const Entry* find(std::string_view name) const {
    const std::string full = std::string(root_) + "/" + std::string(name);
    const auto entry = std::lower_bound(entries_.begin(), entries_.end(), full, [](const Entry& a, const std::string& b) { return a.name < b; });
    if (entry == entries_.end() || entry->name != full) return nullptr;
    if (entry->encrypted) throw UnsupportedError(file_.path() + ": " + quoted(entry->name) + " is encrypted");
    if (entry->compression != 0)
      throw UnsupportedError(file_.path() + ": " + quoted(entry->name) + " is compressed (method " + std::to_string(entry->compression) + "); torch.save stores files as they are");
    return &*entry;
  }
  std::string_view text(const Entry& entry) const noexcept { return file_.text().substr(entry.begin, entry.size); }

 private:
  template <class T>
  T at(std::size_t offset) const noexcept {
    T value;
    std::memcpy(&value, file_.data() + offset, sizeof value);
    return value;
  }

  void refuse_other_formats() const {
    const std::string_view text = file_.text();
    if (text.starts_with("PK\x03\x04")) return;
    if (text.starts_with("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"))
      throw UnsupportedError(file_.path() + ": the format that torch.save had before version 1.6; read it with torch.load and save it again");
    if (text.starts_with("\x80")) throw UnsupportedError(file_.path() + ": a pickle that is in no archive; expected what torch.save writes since version 1.6");
    if (text.starts_with("version https://git-lfs"))
      throw FormatError(file_.path(), 0, "a pointer of git-lfs stands in the place of the file: the file itself was not downloaded");
    throw FormatError(file_.path(), 0, "no zip archive, which torch.save writes since version 1.6");
  }

  void read_directory(std::size_t at_byte, std::size_t end, std::uint64_t count) {
    constexpr std::size_t central_size = 46, local_size = 30;
    const std::size_t directory = at_byte;
    const auto refuse = [&](std::size_t byte, const std::string& what) { throw FormatError(file_.path(), byte, what); };
    if (count > (end - directory) / central_size)
      refuse(end, "the archive's directory has " + std::to_string(count) + " entries by its end, and " + std::to_string(end - directory) + " bytes");
    entries_.reserve(static_cast<std::size_t>(count));
    for (; count > 0; --count) {
      if (end - at_byte < central_size || at<std::uint32_t>(at_byte) != 0x02014b50) refuse(at_byte, "no entry of the archive's directory");
      const auto flags = at<std::uint16_t>(at_byte + 8), method = at<std::uint16_t>(at_byte + 10);
      std::uint64_t stored = at<std::uint32_t>(at_byte + 20), size = at<std::uint32_t>(at_byte + 24), local = at<std::uint32_t>(at_byte + 42);
      const std::size_t name_size = at<std::uint16_t>(at_byte + 28), extra_size = at<std::uint16_t>(at_byte + 30), comment_size = at<std::uint16_t>(at_byte + 32);
      if (end - at_byte - central_size < name_size + extra_size + comment_size) refuse(at_byte, "an entry of the archive's directory reaches beyond it");
      const std::string_view name = file_.text().substr(at_byte + central_size, name_size);
      const auto refuse_entry = [&](const std::string& what) { refuse(at_byte, quoted(name) + ": " + what); };
      // Values of four bytes that do not suffice stand in the extra field of zip64, in this order.
      for (std::size_t field = at_byte + central_size + name_size, last = field + extra_size; last - field >= 4;) {
        const std::size_t length = at<std::uint16_t>(field + 2);
        if (length > last - field - 4) refuse_entry("an extra field reaches beyond its entry");
        std::size_t value = field + 4, left = at<std::uint16_t>(field) == 1 ? length : 0;
        for (std::uint64_t* const wide : {&size, &stored, &local}) {
          if (*wide != 0xffffffff || left < 8) continue;
          *wide = at<std::uint64_t>(value);
          value += 8, left -= 8;
        }
        field += 4 + length;
      }
      if (method == 0 && (flags & 1) == 0 && stored != size) refuse_entry("takes " + std::to_string(stored) + " bytes for " + std::to_string(size) + ", but is not compressed");
      if (local > directory || directory - local < local_size) refuse_entry("begins at byte " + std::to_string(local) + ", the directory at " + std::to_string(directory));
      const auto header = static_cast<std::size_t>(local);
      const std::size_t local_name = at<std::uint16_t>(header + 26), local_extra = at<std::uint16_t>(header + 28);
      if (at<std::uint32_t>(header) != 0x04034b50) refuse_entry("has no file at byte " + std::to_string(local));
      if (directory - header - local_size < local_name + local_extra || file_.text().substr(header + local_size, local_name) != name)
        refuse_entry("has another name at byte " + std::to_string(local));
      const std::size_t begin = header + local_size + local_name + local_extra;
      if (stored > directory - begin) refuse_entry("has " + std::to_string(stored) + " bytes from " + std::to_string(begin) + ", the directory begins at " + std::to_string(directory));
      entries_.push_back({name, header, begin, static_cast<std::size_t>(stored), (flags & 1) != 0, method});
      at_byte += central_size + name_size + extra_size + comment_size;
    }
    if (at_byte != end) refuse(at_byte, std::to_string(end - at_byte) + " bytes behind the last entry of the archive's directory");

    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.header < b.header; });
    for (std::size_t i = 1; i < entries_.size(); ++i)
      if (entries_[i].header < entries_[i - 1].begin + entries_[i - 1].size) refuse(entries_[i].header, quoted(entries_[i].name) + " begins inside " + quoted(entries_[i - 1].name));
    std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < entries_.size(); ++i)
      if (entries_[i].name == entries_[i - 1].name) refuse(entries_[i].header, quoted(entries_[i].name) + " is twice in the archive");
  }

  void find_root() {
    for (const Entry& entry : entries_) {
      const std::size_t slash = entry.name.find('/');
      if (slash != std::string_view::npos && entry.name.substr(slash) == "/data.pkl") {
        if (!root_.empty()) throw FormatError(file_.path(), entry.header, "a second data.pkl in the archive");
        root_ = entry.name.substr(0, slash);
      }
    }
    if (root_.empty()) throw FormatError(file_.path(), 0, "a zip archive without data.pkl: not written by torch.save");
  }

  const FileMap& file_;
  std::vector<Entry> entries_;  // by name
  std::string_view root_;
};

/// The names of Python that state dicts are made of, and what stands for them here.
enum class PickleName : std::uint8_t {
  ordered_dict, counter, rebuild_tensor, rebuild_tensor_v2, rebuild_tensor_v3, rebuild_parameter,
  constant,       // torch.Size(...), torch.device(...), bytes: a value that is no tensor
  storage,        // a storage of elements of one dtype
  bytes_storage,  // an untyped one
  dtype,
};
struct PickleNameEntry {
  std::string_view module, name;
  PickleName meaning;
  DType dtype = DType::u8;
};
inline constexpr PickleNameEntry pickle_names[] = {
    {"collections", "OrderedDict", PickleName::ordered_dict},
    {"collections", "Counter", PickleName::counter},
    {"torch._utils", "_rebuild_tensor", PickleName::rebuild_tensor},
    {"torch._utils", "_rebuild_tensor_v2", PickleName::rebuild_tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", PickleName::rebuild_tensor_v3},
    {"torch._utils", "_rebuild_parameter", PickleName::rebuild_parameter},
    {"torch", "Size", PickleName::constant},
    {"torch", "device", PickleName::constant},
    {"builtins", "set", PickleName::constant},
    {"__builtin__", "set", PickleName::constant},
    {"_codecs", "encode", PickleName::constant},
    {"torch", "FloatStorage", PickleName::storage, DType::f32},
    {"torch", "HalfStorage", PickleName::storage, DType::f16},
    {"torch", "BFloat16Storage", PickleName::storage, DType::bf16},
    {"torch", "DoubleStorage", PickleName::storage, DType::f64},
    {"torch", "CharStorage", PickleName::storage, DType::i8},
    {"torch", "ByteStorage", PickleName::storage, DType::u8},
    {"torch", "ShortStorage", PickleName::storage, DType::i16},
    {"torch", "IntStorage", PickleName::storage, DType::i32},
    {"torch", "LongStorage", PickleName::storage, DType::i64},
    {"torch", "BoolStorage", PickleName::storage, DType::boolean},
    {"torch.storage", "UntypedStorage", PickleName::bytes_storage},
    {"torch", "UntypedStorage", PickleName::bytes_storage},
    {"torch", "float32", PickleName::dtype, DType::f32},
    {"torch", "float16", PickleName::dtype, DType::f16},
    {"torch", "bfloat16", PickleName::dtype, DType::bf16},
    {"torch", "float64", PickleName::dtype, DType::f64},
    {"torch", "float8_e4m3fn", PickleName::dtype, DType::f8_e4m3},
    {"torch", "float8_e5m2", PickleName::dtype, DType::f8_e5m2},
    {"torch", "float8_e8m0fnu", PickleName::dtype, DType::f8_e8m0},
    {"torch", "int8", PickleName::dtype, DType::i8},
    {"torch", "uint8", PickleName::dtype, DType::u8},
    {"torch", "int16", PickleName::dtype, DType::i16},
    {"torch", "uint16", PickleName::dtype, DType::u16},
    {"torch", "int32", PickleName::dtype, DType::i32},
    {"torch", "uint32", PickleName::dtype, DType::u32},
    {"torch", "int64", PickleName::dtype, DType::i64},
    {"torch", "uint64", PickleName::dtype, DType::u64},
    {"torch", "bool", PickleName::dtype, DType::boolean},
};

/// The opcodes of protocols 2 to 5 that the reader knows, and for messages the others.
enum class PickleOp : std::uint8_t {
  mark = '(', stop = '.', pop = '0', pop_mark = '1', dup = '2', float_ = 'F', int_ = 'I', binint = 'J', binint1 = 'K', long_ = 'L', binint2 = 'M', none = 'N', persid = 'P',
  binpersid = 'Q', reduce = 'R', string = 'S', binstring = 'T', short_binstring = 'U', unicode = 'V', binunicode = 'X', append = 'a', build = 'b', global = 'c', dict = 'd',
  empty_dict = '}', appends = 'e', get = 'g', binget = 'h', inst = 'i', long_binget = 'j', list = 'l', empty_list = ']', obj = 'o', put = 'p', binput = 'q', long_binput = 'r',
  setitem = 's', tuple = 't', empty_tuple = ')', setitems = 'u', binfloat = 'G', binbytes = 'B', short_binbytes = 'C', proto = 0x80, newobj = 0x81, ext1 = 0x82, ext2 = 0x83,
  ext4 = 0x84, tuple1 = 0x85, tuple2 = 0x86, tuple3 = 0x87, newtrue = 0x88, newfalse = 0x89, long1 = 0x8a, long4 = 0x8b, short_binunicode = 0x8c, binunicode8 = 0x8d,
  binbytes8 = 0x8e, empty_set = 0x8f, additems = 0x90, frozenset = 0x91, newobj_ex = 0x92, stack_global = 0x93, memoize = 0x94, frame = 0x95, bytearray8 = 0x96, next_buffer = 0x97,
  readonly_buffer = 0x98,
};
inline constexpr std::pair<PickleOp, std::string_view> other_pickle_ops[] = {
    {PickleOp::pop, "POP"}, {PickleOp::pop_mark, "POP_MARK"}, {PickleOp::dup, "DUP"}, {PickleOp::float_, "FLOAT"}, {PickleOp::int_, "INT"}, {PickleOp::long_, "LONG"},
    {PickleOp::persid, "PERSID"}, {PickleOp::string, "STRING"}, {PickleOp::unicode, "UNICODE"}, {PickleOp::dict, "DICT"}, {PickleOp::get, "GET"}, {PickleOp::inst, "INST"},
    {PickleOp::list, "LIST"}, {PickleOp::obj, "OBJ"}, {PickleOp::put, "PUT"}, {PickleOp::newobj, "NEWOBJ"}, {PickleOp::ext1, "EXT1"}, {PickleOp::ext2, "EXT2"},
    {PickleOp::ext4, "EXT4"}, {PickleOp::frozenset, "FROZENSET"}, {PickleOp::newobj_ex, "NEWOBJ_EX"}, {PickleOp::next_buffer, "NEXT_BUFFER"},
    {PickleOp::readonly_buffer, "READONLY_BUFFER"}};

/// A machine for the opcodes of a state dict. Values are a few words; what they contain lies in vectors beside the stack, by number.
class TorchUnpickler {
 public:
  TorchUnpickler(const FileMap& file, const TorchArchive& archive, const TorchArchive::Entry& pickle)
      : file_(file), archive_(archive), pickle_(archive.text(pickle)), begin_(pickle.begin), copies_left_(file.size() + least_copies) {
    if (pickle_.size() > max_pickle) refuse("a pickle of " + std::to_string(pickle_.size()) + " bytes, at most " + std::to_string(max_pickle));
  }

  std::vector<Weight> run() {
    while (!step()) {}
    if (stack_.size() != 1 || !marks_.empty()) refuse("STOP with " + std::to_string(stack_.size()) + " values on the stack, expected 1");
    const Value all = stack_[0];
    if (all.kind == Kind::tensor) throw UnsupportedError(where() + ": the file is one tensor, expected a dict of tensors");
    std::string name;
    name_tensors(all, name, 0);
    return std::move(named_);
  }

 private:
  enum class Kind : std::uint8_t { other, integer, text, tuple, list, dict, name, storage, tensor };
  struct Value {
    Kind kind = Kind::other;
    std::int64_t number = 0;  // an integer; the place in lists_, storages_, tensors_, pickle_names
    std::string_view text = {};
  };
  struct Storage {
    const TorchArchive::Entry* entry;
    std::optional<DType> dtype;  // none: bytes
    std::size_t elements;
  };
  struct Tensor {
    DType dtype;
    Shape shape;
    const std::byte* data;
    std::shared_ptr<const void> owner;
  };

  // A state dict takes about 300 bytes of pickle and 20 values for each tensor. A hostile one could ask for 50 bytes of memory with each of its own.
  static constexpr std::size_t max_pickle = 64 << 20, max_values = 4'000'000, max_tensors = 1'000'000, max_name = 1024, max_depth = 64;
  // Copies of tensors that do not lie in rows take no more than the file, or this where a tiny file has such a tensor.
  static constexpr std::size_t least_copies = 1 << 20;

  std::string where() const { return file_.path() + ": byte " + std::to_string(begin_ + op_at_); }
  [[noreturn]] void refuse(const std::string& what) const { throw FormatError(file_.path(), begin_ + op_at_, what); }

  // What the pickle has next.
  std::string_view take(std::uint64_t count) {
    if (count > pickle_.size() - at_) refuse("the pickle ends inside its last opcode");
    const std::string_view bytes = pickle_.substr(at_, static_cast<std::size_t>(count));
    at_ += static_cast<std::size_t>(count);
    return bytes;
  }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take_line() {
    const std::size_t end = pickle_.find('\n', at_);
    if (end == std::string_view::npos) refuse("GLOBAL without the end of its line");
    const std::string_view line = take(end - at_);
    take(1);
    return line;
  }

  // The stack.
  void push(Value value) {
    if (++pushed_ > max_values) refuse("more than " + std::to_string(max_values) + " values in a pickle");
    stack_.push_back(value);
  }
  std::size_t floor() const noexcept { return marks_.empty() ? 0 : marks_.back(); }
  Value& top() {
    if (stack_.size() <= floor()) refuse("an opcode for a value, and none is on the stack");
    return stack_.back();
  }
  Value pop() {
    const Value value = top();
    stack_.pop_back();
    return value;
  }
  std::vector<Value> pop_last(std::size_t count) {
    if (stack_.size() - floor() < count) refuse("an opcode for " + std::to_string(count) + " values, and fewer are on the stack");
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<Value> values(first, stack_.end());
    stack_.erase(first, stack_.end());
    return values;
  }
  std::vector<Value> pop_to_mark() {
    if (marks_.empty()) refuse("an opcode for the values above a MARK, and there is none");
    std::vector<Value> values = pop_last(stack_.size() - marks_.back());
    marks_.pop_back();
    return values;
  }
  void push_list(Kind kind, std::vector<Value> values) {
    lists_.push_back(std::move(values));
    push({kind, static_cast<std::int64_t>(lists_.size() - 1), {}});
  }
  std::vector<Value>& list(const Value& value) { return lists_[static_cast<std::size_t>(value.number)]; }
  void add_to(Kind kind, const std::vector<Value>& values) {
    const Value target = top();
    if (target.kind == Kind::other) return;  // of a set, for example
    if (target.kind != kind) refuse(kind == Kind::dict ? "items for what is no dict" : "items for what is no list");
    if (kind == Kind::dict && values.size() % 2 != 0) refuse("a key without its value");
    std::vector<Value>& to = list(target);
    to.insert(to.end(), values.begin(), values.end());
  }
  void remember(std::size_t place) {
    const Value value = top();
    if (place > pushed_) refuse("memo " + std::to_string(place) + " after " + std::to_string(pushed_) + " values");
    if (place >= memo_.size()) memo_.resize(place + 1);
    memo_[place] = value;
  }
  void recall(std::size_t place) {
    if (place >= memo_.size() || !memo_[place]) refuse("memo " + std::to_string(place) + " is empty");
    push(*memo_[place]);
  }

  /// One opcode; true at STOP.
  bool step() {
    op_at_ = at_;
    if (at_ == pickle_.size()) refuse("the pickle ends without STOP");
    const auto op = static_cast<PickleOp>(take<std::uint8_t>());
    switch (op) {
      case PickleOp::proto: {
        const int version = take<std::uint8_t>();
        if (version < 2 || version > 5) throw UnsupportedError(where() + ": pickle protocol " + std::to_string(version) + ", readable are 2 to 5");
        return false;
      }
      case PickleOp::frame: take<std::uint64_t>(); return false;
      case PickleOp::stop: return true;
      case PickleOp::mark:
        if (marks_.size() >= max_values) refuse("more than " + std::to_string(max_values) + " MARKs in a pickle");
        marks_.push_back(stack_.size());
        return false;

      case PickleOp::none: case PickleOp::newtrue: case PickleOp::newfalse: case PickleOp::empty_set: push({}); return false;
      case PickleOp::binfloat: take(8); push({}); return false;
      case PickleOp::binint: push({Kind::integer, take<std::int32_t>(), {}}); return false;
      case PickleOp::binint1: push({Kind::integer, take<std::uint8_t>(), {}}); return false;
      case PickleOp::binint2: push({Kind::integer, take<std::uint16_t>(), {}}); return false;
      case PickleOp::long1: push_long(take(take<std::uint8_t>())); return false;
      case PickleOp::long4: push_long(take(take<std::uint32_t>())); return false;
      case PickleOp::short_binbytes: take(take<std::uint8_t>()); push({}); return false;
      case PickleOp::binbytes: take(take<std::uint32_t>()); push({}); return false;
      case PickleOp::binbytes8: case PickleOp::bytearray8: take(take<std::uint64_t>()); push({}); return false;
      case PickleOp::short_binunicode: case PickleOp::short_binstring: push({Kind::text, 0, take(take<std::uint8_t>())}); return false;
      case PickleOp::binunicode: case PickleOp::binstring: push({Kind::text, 0, take(take<std::uint32_t>())}); return false;
      case PickleOp::binunicode8: push({Kind::text, 0, take(take<std::uint64_t>())}); return false;

      case PickleOp::empty_tuple: push_list(Kind::tuple, {}); return false;
      case PickleOp::tuple1: push_list(Kind::tuple, pop_last(1)); return false;
      case PickleOp::tuple2: push_list(Kind::tuple, pop_last(2)); return false;
      case PickleOp::tuple3: push_list(Kind::tuple, pop_last(3)); return false;
      case PickleOp::tuple: push_list(Kind::tuple, pop_to_mark()); return false;
      case PickleOp::empty_list: push_list(Kind::list, {}); return false;
      case PickleOp::empty_dict: push_list(Kind::dict, {}); return false;
      case PickleOp::append: add_to(Kind::list, pop_last(1)); return false;
      case PickleOp::setitem: add_to(Kind::dict, pop_last(2)); return false;
      case PickleOp::appends: add_to(Kind::list, pop_to_mark()); return false;
      case PickleOp::setitems: add_to(Kind::dict, pop_to_mark()); return false;
      case PickleOp::additems: pop_to_mark(); top(); return false;

      case PickleOp::binput: remember(take<std::uint8_t>()); return false;
      case PickleOp::long_binput: remember(take<std::uint32_t>()); return false;
      case PickleOp::memoize: remember(memo_.size()); return false;
      case PickleOp::binget: recall(take<std::uint8_t>()); return false;
      case PickleOp::long_binget: recall(take<std::uint32_t>()); return false;

      case PickleOp::global: {
        const std::string_view module = take_line();
        push_name("GLOBAL", module, take_line());
        return false;
      }
      case PickleOp::stack_global: {
        const Value name = pop(), module = pop();
        if (name.kind != Kind::text || module.kind != Kind::text) refuse("STACK_GLOBAL without the texts of a module and a name");
        push_name("STACK_GLOBAL", module.text, name.text);
        return false;
      }
      case PickleOp::binpersid: push_storage(pop()); return false;
      case PickleOp::reduce: reduce(); return false;
      case PickleOp::build: {
        // OrderedDict's attributes, `_metadata` with the versions of modules.
        const Value state = pop();
        if (top().kind != Kind::dict || (state.kind != Kind::dict && state.kind != Kind::tuple && state.kind != Kind::other))
          throw UnsupportedError(where() + ": BUILD of what is no dict");
        return false;
      }
      default: refuse_opcode(op);
    }
  }
  [[noreturn]] void refuse_opcode(PickleOp op) const {
    for (const auto& [other, name] : other_pickle_ops)
      if (other == op) throw UnsupportedError(where() + ": opcode " + std::string(name) + " of pickle, which no state dict needs");
    refuse("byte " + std::to_string(static_cast<int>(op)) + " is no opcode of pickle");
  }

  /// Little-endian, in two's complement. What has more than eight bytes is no extent.
  void push_long(std::string_view bytes) {
    if (bytes.size() > 8) return push({});
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) value |= static_cast<std::uint64_t>(static_cast<std::uint8_t>(bytes[i])) << (8 * i);
    if (!bytes.empty() && bytes.size() < 8 && (bytes.back() & 0x80) != 0) value |= ~std::uint64_t{0} << (8 * bytes.size());
    push({Kind::integer, std::bit_cast<std::int64_t>(value), {}});
  }

  void push_name(const std::string& op, std::string_view module, std::string_view name) {
    for (const PickleNameEntry& known : pickle_names)
      if (known.module == module && known.name == name) return push({Kind::name, &known - pickle_names, {}});
    const std::string full = std::string(module.substr(0, 100)) + "." + std::string(name.substr(0, 100));
    throw UnsupportedError(where() + ": " + op + " " + full + ", which is no part of a state dict of plain tensors; nothing in a pickle is run");
  }
  static const PickleNameEntry& name_of(const Value& value) { return pickle_names[static_cast<std::size_t>(value.number)]; }

  /// ('storage', torch.FloatStorage, '17', 'cpu', 4096): the key of a file in data/, where it lived, its elements.
  void push_storage(const Value& id) {
    const std::vector<Value> none, &parts = id.kind == Kind::tuple ? list(id) : none;
    if (parts.size() < 5 || parts[0].text != "storage" || parts[1].kind != Kind::name || parts[2].kind != Kind::text || parts[4].kind != Kind::integer || parts[4].number < 0)
      refuse("BINPERSID of what is no storage");
    const PickleNameEntry& type = name_of(parts[1]);
    if (type.meaning != PickleName::storage && type.meaning != PickleName::bytes_storage) refuse("BINPERSID of what is no storage");
    const TorchArchive::Entry* const entry = archive_.find("data/" + std::string(parts[2].text.substr(0, 256)));
    if (entry == nullptr) refuse("storage " + quoted(parts[2].text) + " is not in the archive");
    const auto elements = static_cast<std::uint64_t>(parts[4].number);
    const std::size_t width = size_of(type.dtype);
    if (entry->size % width != 0 || entry->size / width != elements)
      refuse("storage " + quoted(parts[2].text) + " is " + std::to_string(elements) + " elements " + std::string(chiasm::name(type.dtype)) + ", its file has " +
             std::to_string(entry->size) + " bytes");
    storages_.push_back({entry, type.meaning == PickleName::storage ? std::optional(type.dtype) : std::nullopt, static_cast<std::size_t>(elements)});
    push({Kind::storage, static_cast<std::int64_t>(storages_.size() - 1), {}});
  }

  void reduce() {
    const Value arguments = pop(), callable = pop();
    if (callable.kind != Kind::name || arguments.kind != Kind::tuple) refuse("REDUCE of what is no call");
    const PickleNameEntry& name = name_of(callable);
    const std::vector<Value> values = list(arguments);
    const auto refuse_arguments = [&] { refuse("REDUCE: " + std::string(name.name) + " with other arguments than it takes"); };
    switch (name.meaning) {
      case PickleName::ordered_dict: case PickleName::counter:
        if (values.size() == 1 && values[0].kind == Kind::dict) return push(values[0]);
        if (!values.empty()) refuse_arguments();
        return push_list(Kind::dict, {});
      case PickleName::rebuild_parameter:
        if (values.empty() || values[0].kind != Kind::tensor) refuse_arguments();
        return push(values[0]);
      case PickleName::rebuild_tensor: case PickleName::rebuild_tensor_v2:
        if (values.size() < 4) refuse_arguments();
        return push_tensor(values, std::nullopt);
      case PickleName::rebuild_tensor_v3:
        if (values.size() < 7 || values[6].kind != Kind::name || name_of(values[6]).meaning != PickleName::dtype) refuse_arguments();
        return push_tensor(values, name_of(values[6]).dtype);
      case PickleName::constant: return push({});
      case PickleName::storage: case PickleName::bytes_storage: case PickleName::dtype: break;
    }
    refuse_arguments();
  }

  std::vector<std::size_t> extents(const Value& value, const char* what) {
    if (value.kind != Kind::tuple && value.kind != Kind::list) refuse(std::string("a tensor whose ") + what + " is no tuple");
    std::vector<std::size_t> result;
    for (const Value& extent : list(value)) {
      if (extent.kind != Kind::integer || extent.number < 0) refuse(std::string("a tensor whose ") + what + " is no tuple of integers from 0");
      result.push_back(static_cast<std::size_t>(extent.number));
    }
    return result;
  }

  /// _rebuild_tensor_v2(storage, first element, size, stride, ...)
  void push_tensor(const std::vector<Value>& values, std::optional<DType> dtype) {
    if (values[0].kind != Kind::storage || values[1].kind != Kind::integer || values[1].number < 0) refuse("a tensor without a storage and where it begins in it");
    const Storage& storage = storages_[static_cast<std::size_t>(values[0].number)];
    if (!dtype) dtype = storage.dtype;
    if (!dtype) refuse("a tensor of an untyped storage without a dtype");
    const std::size_t width = size_of(*dtype), elements = storage.entry->size / width;
    const std::vector<std::size_t> size = extents(values[2], "size"), stride = extents(values[3], "stride");
    if (size.size() != stride.size()) refuse("a tensor of " + std::to_string(size.size()) + " dimensions with " + std::to_string(stride.size()) + " strides");
    if (size.size() > Shape::max_rank) throw UnsupportedError(where() + ": a tensor of " + std::to_string(size.size()) + " dimensions, at most " + std::to_string(Shape::max_rank));

    Shape shape;
    std::size_t count = 1, last = static_cast<std::size_t>(values[1].number);
    const std::size_t first = last;
    bool empty = false, in_rows = true;
    for (const std::size_t extent : size) shape.append(extent), empty = empty || extent == 0;
    const auto outside = [&] {
      refuse("a tensor " + shape.to_string() + " that reaches beyond the " + std::to_string(elements) + " elements of its storage " + quoted(storage.entry->name));
    };
    constexpr std::size_t most = std::numeric_limits<std::ptrdiff_t>::max();
    for (std::size_t i = size.size(); i-- > 0;) {
      if (size[i] == 0) continue;
      in_rows = in_rows && (size[i] == 1 || stride[i] == count);
      if (size[i] > most / width / count || (!empty && stride[i] != 0 && size[i] - 1 > (most - last) / stride[i])) outside();
      count *= size[i];
      if (!empty) last += (size[i] - 1) * stride[i];
    }
    if (!empty && last >= elements) outside();

    Tensor tensor{*dtype, shape, file_.data() + storage.entry->begin + (empty ? 0 : first * width), file_.owner()};
    if (!empty && !in_rows) {
      if (count * width > copies_left_) refuse("tensors that do not lie in rows take more than the file");
      copies_left_ -= count * width;
      const auto rows = std::make_shared<std::vector<std::byte>>();
      rows->reserve(count * width);
      copy_rows(*rows, tensor.data, size, stride, width, 0);
      tensor.data = rows->data();
      tensor.owner = rows;
    }
    tensors_.push_back(std::move(tensor));
    push({Kind::tensor, static_cast<std::int64_t>(tensors_.size() - 1), {}});
  }
  static void copy_rows(std::vector<std::byte>& to, const std::byte* from, std::span<const std::size_t> size, std::span<const std::size_t> stride, std::size_t width,
                        std::size_t dimension) {
    for (std::size_t i = 0; i < size[dimension]; ++i, from += stride[dimension] * width) {
      if (dimension + 1 < size.size()) copy_rows(to, from, size, stride, width, dimension + 1);
      else to.insert(to.end(), from, from + width);
    }
  }

  /// Walks what the pickle built; `name` is the path to `value`.
  void name_tensors(const Value& value, std::string& name, std::size_t depth) {
    if (depth > max_depth) refuse("dicts in dicts, more than " + std::to_string(max_depth));
    if (++visited_ > pushed_) refuse("the same dicts in many places");  // a walk of a tree meets each value once; 2^n times where each dict holds another one twice
    if (value.kind == Kind::tensor) {
      const Tensor& tensor = tensors_[static_cast<std::size_t>(value.number)];
      named_bytes_ += name.size();
      if (named_.size() == max_tensors || named_bytes_ > 4 * pickle_.size() + (std::size_t{16} << 20)) refuse("more than " + std::to_string(named_.size()) + " tensors");
      named_.emplace_back(name, tensor.dtype, tensor.shape, tensor.data, tensor.owner, file_.path());
      return;
    }
    if (value.kind != Kind::dict && value.kind != Kind::list && value.kind != Kind::tuple) return;
    const std::size_t length = name.size(), step = value.kind == Kind::dict ? 2 : 1;
    const std::vector<Value>& items = list(value);
    for (std::size_t i = 0; i < items.size(); i += step) {
      if (length > 0) name += '.';
      if (step == 1) name += std::to_string(i);
      else if (items[i].kind == Kind::text) name += items[i].text.substr(0, max_name + 1);
      else name += items[i].kind == Kind::integer ? std::to_string(items[i].number) : "?";
      if (name.size() > max_name) refuse("a tensor's name of more than " + std::to_string(max_name) + " bytes: " + detail::quoted(name));
      name_tensors(items[i + step - 1], name, depth + 1);
      name.resize(length);
    }
  }

  const FileMap& file_;
  const TorchArchive& archive_;
  std::string_view pickle_;
  std::size_t begin_, at_ = 0, op_at_ = 0;  // the pickle's first byte in the file; the next byte and the opcode in hand, in the pickle
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;  // heights of the stack
  std::vector<std::optional<Value>> memo_;
  std::vector<std::vector<Value>> lists_;  // of tuples, lists, and dicts: key, value, key, value
  std::vector<Storage> storages_;
  std::vector<Tensor> tensors_;
  std::vector<Weight> named_;
  std::size_t pushed_ = 0, visited_ = 0, named_bytes_ = 0, copies_left_;
};

}  // namespace detail

CHIASM_INLINE TorchPickle TorchPickle::parse(const FileMap& file) {
  const detail::TorchArchive archive(file);
  if (archive.find("constants.pkl") != nullptr) throw UnsupportedError(file.path() + ": a TorchScript program; expected what torch.save makes of a state dict");
  if (const auto* const order = archive.find("byteorder")) {
    const std::string_view text = archive.text(*order);
    if (text == "big") throw UnsupportedError(file.path() + ": a file of a big-endian machine");
    if (text != "little") throw FormatError(file.path(), order->begin, "byteorder is " + detail::quoted(text) + ", expected 'little'");
  }
  const detail::TorchArchive::Entry& pickle = *archive.find("data.pkl");
  TorchPickle result{detail::TorchUnpickler(file, archive, pickle).run()};

  std::vector<std::string_view> names;
  names.reserve(result.tensors.size());
  for (const Weight& weight : result.tensors) names.push_back(weight.name());
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw FormatError(file.path(), pickle.begin, "two tensors by the name " + detail::quoted(*twice));
  return result;
}

CHIASM_INLINE Weights read_torch_pickle(const std::string& path, WeightKind kind) {
  return Weights(TorchPickle::parse(FileMap::open(path)).tensors, path, kind);
}

CHIASM_INLINE Weights read_torch_pickle(std::span<const std::byte> bytes, std::string name, std::shared_ptr<const void> owner, WeightKind kind) {
  return Weights(TorchPickle::parse(FileMap(bytes, name, std::move(owner))).tensors, name, kind);
}

CHIASM_INLINE std::vector<Weight> read_torch_pickle_shards(const FileMap& index, FunctionRef<FileMap(const std::string& shard)> open,
                                                           FunctionRef<void(std::string_view shard, std::size_t done, std::size_t total)> progress) {
  return detail::read_shards(index, open, [](const FileMap& file) { return TorchPickle::parse(file).tensors; }, progress);
}

}  // namespace chiasm
