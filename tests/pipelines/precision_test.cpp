/// What weights and arithmetic of fewer bits cost, on every family.
#include "../../examples/precision.hpp"

#include <chiasm/io/checkpoint.hpp>

#include "support/catch.hpp"
#include "support/paths.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

using namespace chiasm;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> cases() {
  std::vector<std::string> folders;
  for (const auto& entry : fs::directory_iterator(test_data("cases"))) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory() && !name.starts_with("gguf_")) folders.push_back(entry.path().string());
  }
  std::sort(folders.begin(), folders.end());
  return folders;
}

/// A copy of a model whose matrices are off by random noise of `share` of each row's size.
class Noisy {
 public:
  Noisy(const std::string& model, double share, unsigned seed) : random_(seed), share_(share) { copy(model, path_); }
  ~Noisy() {
    std::error_code error;
    fs::remove_all(path_, error);
  }
  Noisy(const Noisy&) = delete;
  Noisy& operator=(const Noisy&) = delete;
  std::string path() const { return path_.string(); }

 private:
  void copy(const fs::path& from, const fs::path& to) {
    fs::create_directories(to);
    bool sharded = false, weights = false;
    for (const auto& entry : fs::directory_iterator(from)) {
      const std::string name = entry.path().filename().string(), ending = entry.path().extension().string();
      if (entry.is_directory()) copy(entry.path(), to / name);
      else if (name.ends_with(".index.json")) sharded = true;
      else if (ending == ".safetensors" || ending == ".bin") weights = true;
      else fs::copy_file(entry.path(), to / name);
    }
    if (!weights && !sharded) return;
    std::normal_distribution<float> normal;
    std::vector<WeightError> findings;
    const Weights stored = Checkpoint::open(from.string()).weights().noting(findings);
    std::vector<Weight> tensors;
    for (const std::string& name : stored.names()) {
      const Weight weight = stored.stored(name);
      const auto values = std::make_shared<Tensor>(weight.to_f32());
      if (weight.shape().rank() >= 2)
        for (std::size_t r = 0; r < values->rows(); ++r) {
          double squares = 0;
          for (std::size_t c = 0; c < values->columns(); ++c) squares += static_cast<double>(values->row(r)[c]) * static_cast<double>(values->row(r)[c]);
          const float size = static_cast<float>(share_ * std::sqrt(squares / static_cast<double>(values->columns())));
          for (std::size_t c = 0; c < values->columns(); ++c) values->row(r)[c] += size * normal(random_);
        }
      tensors.emplace_back(name, DType::f32, weight.shape(), reinterpret_cast<const std::byte*>(values->data()), values, "noise");
    }
    write_safetensors((to / "model.safetensors").string(), tensors);
  }

  std::mt19937 random_;
  double share_;
  fs::path path_ = fs::temp_directory_path() / ("chiasm-noisy-" + std::to_string(std::random_device()()));
};

/// How far a product of the mode is from the one in f32, as a share of its size: what rounding to bf16 and quantize() leave of normal numbers, and activations
/// in 8 bits of the largest of a block.
double share_of_error(const precision::Mode& mode) {
  const double arithmetic = mode.compute == Compute::bf16 ? 0.007 : 0.0;
  const double weights = mode.weights == WeightKind::bf16 ? 0.0017 : mode.weights == WeightKind::q8 ? 0.005 : 0.075;
  return std::sqrt(weights * weights + arithmetic * arithmetic);
}

}  // namespace

TEST_CASE("every family runs in bf16, q8 and q4, as near to f32 as noise of that size leaves it") {
  for (const std::string& folder : cases()) {
    const precision::Subject subject = precision::subject_of_case(folder);
    std::vector<std::vector<TokenId>> follow;
    const precision::Seen exact = precision::look(subject, precision::exact, follow, 4);
    for (const precision::Mode& mode : precision::modes) {
      const precision::Agreement agreement = precision::compare(exact, precision::look(subject, mode, follow, 4));
      double noise = 0;  // the most that one of three draws does
      for (unsigned seed = 1; seed <= 3; ++seed) {
        const Noisy noisy(subject.model, share_of_error(mode), seed);
        precision::Subject disturbed = subject;
        disturbed.model = noisy.path();
        noise = std::max(noise, 1 - precision::compare(exact, precision::look(disturbed, precision::exact, follow, 4)).mean_cosine);
      }
      INFO(subject.name << ", " << mode.name << ": cosine " << agreement.mean_cosine << ", least " << agreement.least_cosine << ", tokens " << agreement.same << " of "
                        << agreement.tokens << "; of noise " << 1 - noise);
      // How much a random model of little width makes of an error is its own affair: T5's states are off by a third in q4, and by as much with noise.
      CHECK(1 - agreement.mean_cosine <= 2 * noise);
    }
  }
}
