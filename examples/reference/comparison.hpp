/// Comparison of a result with its reference, tensor by tensor and run by run.
#pragma once

#include "result.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace reference {

using nlohmann::ordered_json;

/// One tensor of a case, or one of its generations, held against the reference.
struct Stage {
  std::string name, shape;
  std::optional<double> difference;  // max |have - want| / max |want|; of ids, how many differ; none: nothing to subtract
  bool ok = false;
  std::string note;
};

struct Tolerances {
  double relative = 1e-4;                     // to the largest value of the tensor
  std::optional<double> pixels_abs = 1e-5;  // of pixel_values; none: relative as everything
};

inline Stage compare_tensor(const std::string& name, const Dump::Entry& have, const chiasm::Weight& want, const Tolerances& tolerances) {
  Stage stage{name, want.shape().to_string(), {}, false, {}};
  if (std::vector<std::size_t>(want.shape().begin(), want.shape().end()) != have.shape) {
    chiasm::Shape shape;
    for (const std::size_t extent : have.shape) shape.append(extent);
    stage.note = "has shape " + shape.to_string();
    return stage;
  }
  const chiasm::Tensor reference = want.to_f32();
  const auto value = [&](std::size_t i) {
    const auto read = [&](auto number) {
      std::memcpy(&number, have.bytes.data() + i * sizeof number, sizeof number);
      return static_cast<double>(number);
    };
    return have.dtype == chiasm::DType::i64 ? read(std::int64_t{}) : read(float{});
  };
  std::size_t different = 0, first = 0, at = 0;
  double largest = 0, worst = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double wanted = static_cast<double>(reference.data()[i]);
    double difference = std::abs(value(i) - wanted);
    if (std::isnan(value(i)) && std::isnan(wanted)) difference = 0;
    if (!std::isnan(wanted)) largest = std::max(largest, std::abs(wanted));
    if (difference != 0 && different++ == 0) first = i;
    if (difference > worst || std::isnan(difference)) worst = std::isnan(difference) ? INFINITY : difference, at = i;
  }
  if (have.dtype == chiasm::DType::i64) {
    stage.difference = static_cast<double>(different);
    stage.ok = different == 0;
    if (!stage.ok) stage.note = std::to_string(different) + " differ, the first at " + std::to_string(first);
    return stage;
  }
  stage.difference = largest > 0 ? worst / largest : worst;
  const bool pixels = tolerances.pixels_abs && name.find("pixel_values") != std::string::npos;
  stage.ok = worst <= (pixels ? *tolerances.pixels_abs : tolerances.relative * largest);
  if (!stage.ok) {
    const auto number = [](double x) {
      char text[40];
      std::snprintf(text, sizeof text, "%.6g", x);
      return std::string(text);
    };
    stage.note = "largest at element " + std::to_string(at) + ": " + number(value(at)) + ", expected " + number(static_cast<double>(reference.data()[at]));
  }
  return stage;
}

/// All that `expected` holds, in the order in which this library came to it; what it did not come to is last.
inline std::vector<Stage> compare(const Case& one, const Result& result, const Tolerances& tolerances) {
  const chiasm::Weights expected = read_expected(one.expected);
  std::vector<Stage> stages;
  for (const std::string& name : result.tensors.order())
    stages.push_back(compare_tensor(name, result.tensors.entries().at(name), expected.get(name), tolerances));
  const ordered_json runs = one.description.value("runs", ordered_json::array());
  for (std::size_t i = 0; i < runs.size() && i < result.runs.size(); ++i) {
    const auto output_ids = [](const ordered_json& run) {  // of a batch: one answer after the other
      std::vector<chiasm::TokenId> all;
      const ordered_json flat = run.value("output_ids", ordered_json::array()).flatten();
      for (const auto& [key, id] : flat.items())
        if (id.is_number_integer()) all.push_back(id.get<chiasm::TokenId>());
      return all;
    };
    const std::vector<chiasm::TokenId> want = output_ids(runs[i]), have = output_ids(result.runs[i]);
    Stage stage{runs[i].value("input", std::string()) + "." + runs[i].value("name", std::string()), std::to_string(want.size()) + " tokens", {}, want == have, {}};
    if (result.runs[i].contains("error")) {
      stage.ok = false;
      stage.note = result.runs[i].at("error").get<std::string>();
    } else if (!stage.ok) {
      const std::size_t at = static_cast<std::size_t>(std::mismatch(want.begin(), want.end(), have.begin(), have.end()).first - want.begin());
      const auto token = [&](const std::vector<chiasm::TokenId>& ids) { return at < ids.size() ? std::to_string(ids[at]) : std::string("the end"); };
      stage.note = "token " + std::to_string(at) + " is " + token(have) + ", expected " + token(want);
    }
    stages.push_back(stage);
  }
  for (const std::string& name : expected.names())
    if (!result.tensors.entries().contains(name)) stages.push_back({name, expected.get(name).shape().to_string(), {}, false, "not reached"});
  return stages;
}

}  // namespace reference
