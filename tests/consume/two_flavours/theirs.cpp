#include <chiasm/chiasm.hpp>

std::string quote(const char* text);
std::string quote(const char* text) { return chiasm::Json::parse(std::string("[\"") + text + "\"]").at(0).dump(); }
