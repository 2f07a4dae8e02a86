#pragma once

#include <chiasm/core/weights.hpp>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <new>

namespace chiasm::inline CHIASM_ABI {

struct Weights::Entry {
  Weight weight;
  std::shared_ptr<bool> used;  // of all trees that have the tensor
  RowOrder order = {};         // of reordered()

  Weight take() const { return order ? weight.gather(*order) : weight; }
};

struct Weights::Store {
  std::map<std::string, Entry, std::less<>> entries;
  std::string source;
  struct Work {
    Conversion how;
    std::size_t done = 0, total = 0;  // matrices
  };
  std::shared_ptr<Work> work;                    // of all trees made from one
  std::vector<WeightError>* findings = nullptr;  // of noting()
  Callback<Origin(std::string_view)> origin;     // of coming_from()

  /// `name`: of the tree.
  Weight take(const std::string& name, const Entry& entry, WeightUse use, Layout layout) const {
    if (findings != nullptr) return entry.weight;
    Conversion& how = work->how;
    const DType type = converted_type(entry.weight, how.kind, use);
    const bool panels = is_block_format(type) || (type == DType::bf16 && how.bf16_panels);
    if (!panels || entry.weight.shape().rank() != 2) layout = Layout::rows;
    if (type == entry.weight.dtype() && layout == entry.weight.layout()) return entry.take();
    // Vectors are not worth a place in a cache, or a word.
    const bool matrix = entry.weight.shape().rank() > 1;
    std::optional<Weight> known = matrix && how.before ? how.before->find(name, entry.weight, type, layout) : std::nullopt;
    if (matrix && !known && !how.threads) how.threads = std::make_shared<ThreadPool>();
    const Weight converted = known ? *known : convert(entry.weight, type, layout, how.threads.get(), how.cancel, entry.order.get());
    if (matrix && how.before && !known) how.before->add(name, entry.weight, converted);
    if (matrix && how.on_progress) how.on_progress(entry.weight.name(), std::min(++work->done, work->total), work->total);
    return converted;
  }

  // Throws, or takes note.
  void report(WeightError error) const {
    if (findings == nullptr) throw error;
    findings->push_back(std::move(error));
  }
  void report_missing(const std::string& name, std::string want) const {
    const Origin place = origin ? origin(name) : Origin{source, name};
    report(WeightError(place.file, place.name, "missing", std::move(want)));
  }
  // Zeros in the place of a tensor that is not there. The system backs large ones only where somebody reads them.
  static Weight zeros(std::string name, Shape shape) {
    std::shared_ptr<void> owner(std::calloc(std::max<std::size_t>(shape.size(), 1), sizeof(float)), std::free);
    if (!owner) throw std::bad_alloc();
    const auto* const data = static_cast<const std::byte*>(owner.get());
    return Weight(std::move(name), DType::f32, shape, data, std::move(owner), "<none>");
  }

  // A weight keeps the name that it has in its file, whatever a model calls it: messages then say what a user can find.
  void add(const std::string& name, Weight weight) { add(name, Entry{std::move(weight), std::make_shared<bool>(false)}); }
  void add(const std::string& name, Entry tensor) {
    const auto [entry, fresh] = entries.try_emplace(name);
    if (!fresh) return report(WeightError(tensor.weight.file(), tensor.weight.name(), "there twice as '" + name + "'", "one tensor"));
    entry->second = std::move(tensor);
  }
  auto below(std::string_view prefix) {
    auto first = entries.lower_bound(prefix), last = first;
    while (last != entries.end() && last->first.starts_with(prefix)) ++last;
    return std::pair(first, last);
  }
};

CHIASM_INLINE Weights::Weights() : Weights({}, "<none>") {}

CHIASM_INLINE Weights::Weights(std::vector<Weight> tensors, std::string source, WeightKind kind) : store_(std::make_shared<Store>()) {
  store_->source = std::move(source);
  store_->work = std::make_shared<Store::Work>();
  store_->work->how.kind = kind;
  for (Weight& weight : tensors) {
    const std::string name = weight.name();
    store_->work->total += weight.shape().rank() > 1;
    store_->add(name, std::move(weight));
  }
}

CHIASM_INLINE Weights Weights::operator/(std::string_view child) const {
  Weights node = *this;
  node.prefix_.append(child).append(".");
  return node;
}

CHIASM_INLINE const Weights::Entry* Weights::find(std::string_view name) const {
  const auto entry = store_->entries.find(prefix_ + std::string(name));
  if (entry == store_->entries.end()) return nullptr;
  *entry->second.used = true;
  return &entry->second;
}

CHIASM_INLINE Weight Weights::get(std::string_view name) const {
  const Entry* const entry = find(name);
  return entry != nullptr ? store_->take(prefix_ + std::string(name), *entry, WeightUse::product, Layout::rows) : missing(name);
}

CHIASM_INLINE Weight Weights::stored(std::string_view name) const {
  const Entry* const entry = find(name);
  return entry == nullptr ? missing(name) : store_->findings != nullptr ? entry->weight : entry->take();
}

CHIASM_INLINE Weight Weights::missing(std::string_view name) const {
  store_->report_missing(prefix_ + std::string(name), "a tensor");
  return Store::zeros(prefix_ + std::string(name), Shape{1});
}

CHIASM_INLINE Weight Weights::converted(const Weight& weight) const {
  // A table that serves as it is would be there twice in panels.
  const bool serves = converted_type(weight, store_->work->how.kind) == weight.dtype() && !is_block_format(weight.dtype());
  return store_->take(weight.name(), Entry{weight, nullptr}, WeightUse::product, serves ? Layout::rows : Layout::panels);
}

CHIASM_INLINE const Weights::Entry* Weights::find(std::string_view name, const Shape& shape) const {
  const Entry* const entry = find(name);
  if (entry == nullptr) store_->report_missing(prefix_ + std::string(name), shape.to_string());
  else if (!(entry->weight.shape() == shape)) store_->report(WeightError(entry->weight.file(), entry->weight.name(), entry->weight.describe(), shape.to_string()));
  else return entry;
  return nullptr;
}

CHIASM_INLINE Weight Weights::get(std::string_view name, Shape shape) const {
  return find(name, shape) != nullptr ? get(name) : Store::zeros(prefix_ + std::string(name), shape);
}

CHIASM_INLINE Weight Weights::packed(std::string_view name, Shape shape) const {
  const Entry* const entry = find(name, shape);
  const std::string full = prefix_ + std::string(name);
  return entry != nullptr ? store_->take(full, *entry, WeightUse::product, Layout::panels) : Store::zeros(full, shape);
}

CHIASM_INLINE Weight Weights::stored(std::string_view name, Shape shape) const {
  return find(name, shape) != nullptr ? stored(name) : Store::zeros(prefix_ + std::string(name), shape);
}

CHIASM_INLINE Weight Weights::table(std::string_view name, Shape shape) const {
  const Entry* const entry = find(name, shape);
  return entry != nullptr ? store_->take(prefix_ + std::string(name), *entry, WeightUse::rows, Layout::rows) : Store::zeros(prefix_ + std::string(name), shape);
}

CHIASM_INLINE Tensor Weights::tensor(std::string_view name, Shape shape) const {
  if (const Entry* const entry = find(name, shape)) return entry->take().to_f32();
  // A vector or a small table. Zeros of any other size would be an allocation that a file asks for and nothing backs.
  if (shape.size() > (std::size_t{1} << 26)) throw ShapeError("Weights::tensor", prefix_ + std::string(name) + " " + shape.to_string());
  return Tensor(shape);
}

CHIASM_INLINE bool Weights::contains(std::string_view name) const {
  const std::string full = prefix_ + std::string(name);
  if (store_->entries.find(full) != store_->entries.end()) return true;
  const auto below = store_->entries.lower_bound(full + ".");
  return below != store_->entries.end() && below->first.starts_with(full + ".");
}

CHIASM_INLINE void Weights::ignore(std::string_view part) const {
  const auto [first, last] = store_->below(prefix_);
  for (auto entry = first; entry != last; ++entry)
    if (entry->first.find(part) != std::string::npos) *entry->second.used = true;
}

CHIASM_INLINE void Weights::expect_all_used() const {
  const auto [first, last] = store_->below(prefix_);
  const Weight* unused = nullptr;
  std::size_t count = 0;
  for (auto entry = first; entry != last; ++entry) {
    const Weight& weight = entry->second.weight;
    if (*entry->second.used) continue;
    if (store_->findings != nullptr)
      store_->report(WeightError(weight.file(), weight.name(), "not used (" + weight.describe() + ")", "a tensor that the model of this config.json has"));
    else if (count++ == 0)
      unused = &weight;
  }
  if (unused != nullptr)
    throw WeightError(unused->file(), unused->name(), "not used (" + unused->describe() + ", one of " + std::to_string(count) + ")",
                      "a tensor that the model of this config.json has");
}

CHIASM_INLINE Weights Weights::renamed(FunctionRef<std::string(std::string_view)> rename) const {
  Weights other({}, store_->source);
  other.store_->work = store_->work;
  other.store_->findings = store_->findings;
  other.store_->origin = store_->origin;
  const auto [first, last] = store_->below(prefix_);
  for (auto entry = first; entry != last; ++entry) {
    std::string name = rename(std::string_view(entry->first).substr(prefix_.size()));
    if (!name.empty()) other.store_->add(name, entry->second);
  }
  return other;
}

CHIASM_INLINE Weights Weights::reordered(FunctionRef<RowOrder(const Weight&)> order) const {
  Weights other = renamed([](std::string_view name) { return std::string(name); });
  for (auto& [name, entry] : other.store_->entries)
    if (RowOrder rows = order(entry.weight)) entry.order = std::move(rows);
  return other;
}

CHIASM_INLINE Weights Weights::converting(Conversion conversion) const {
  Weights other = renamed([](std::string_view name) { return std::string(name); });
  other.store_->work = std::make_shared<Store::Work>();
  other.store_->work->how = std::move(conversion);
  for (const auto& [name, entry] : other.store_->entries) other.store_->work->total += entry.weight.shape().rank() > 1;
  return other;
}

CHIASM_INLINE Weights Weights::merged(const Weights& more) const {
  const auto keep = [](std::string_view name) { return std::string(name); };
  Weights both = renamed(keep);
  const auto [first, last] = more.store_->below(more.prefix_);
  for (auto entry = first; entry != last; ++entry) both.store_->add(entry->first.substr(more.prefix_.size()), entry->second);
  return both;
}

CHIASM_INLINE Weights Weights::with(Weight extra) const {
  const std::string name = extra.name();
  return with(name, std::move(extra));
}

CHIASM_INLINE Weights Weights::with(std::string_view name, Weight extra) const {
  Weights other = renamed([&](std::string_view kept) { return kept == name ? std::string() : std::string(kept); });
  other.store_->add(std::string(name), std::move(extra));
  return other;
}

CHIASM_INLINE Weights Weights::coming_from(Callback<Origin(std::string_view)> origin) const {
  Weights other = renamed([](std::string_view name) { return std::string(name); });
  other.store_->origin = std::move(origin);
  return other;
}

CHIASM_INLINE Weights Weights::noting(std::vector<WeightError>& findings) const {
  Weights other = renamed([](std::string_view name) { return std::string(name); });
  other.store_->findings = &findings;
  return other;
}

CHIASM_INLINE std::vector<std::string> Weights::names() const {
  std::vector<std::string> names;
  const auto [first, last] = store_->below(prefix_);
  for (auto entry = first; entry != last; ++entry) names.push_back(entry->first.substr(prefix_.size()));
  return names;
}

CHIASM_INLINE const std::string& Weights::source() const noexcept { return store_->source; }

CHIASM_INLINE std::size_t Weights::bytes() const {
  std::size_t total = 0;
  const auto [first, last] = store_->below(prefix_);
  for (auto entry = first; entry != last; ++entry) total += entry->second.weight.bytes();
  return total;
}

}  // namespace chiasm
