/// Findings: what a look at a checkpoint has brought up.
#pragma once

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace examples {

using nlohmann::ordered_json;

class Findings {
 public:
  struct Finding {
    bool fatal;  // the checkpoint cannot be loaded, or used for what it is for
    std::string where, what;
  };

  bool loads() const {
    return std::none_of(findings.begin(), findings.end(), [](const Finding& finding) { return finding.fatal; });
  }

  ordered_json facts;                                        // for programs
  std::vector<std::pair<std::string, std::string>> summary;  // for people: a word and what is to be said
  std::vector<Finding> findings;

 protected:
  void error(std::string where, std::string what) { findings.push_back({true, std::move(where), std::move(what)}); }
  void note(std::string where, std::string what) { findings.push_back({false, std::move(where), std::move(what)}); }
};

}  // namespace examples
