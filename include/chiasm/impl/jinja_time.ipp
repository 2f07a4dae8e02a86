// strftime_now: the clock of a rendering, and Python's datetime.strftime.
#pragma once

#include <chiasm/impl/jinja_evaluator.ipp>

#include <array>
#include <ctime>

namespace chiasm::inline CHIASM_ABI {
namespace detail::jinja {

/// What the calendar says of a date. ISO 8601: a year's week 1 is that with its first Thursday.
struct CalendarDay {
  int day_of_year, weekday, iso_year, iso_week;  // 1 is 1 January; 0 is Sunday

  static CalendarDay of(int year, int month, int day) {
    constexpr std::array<int, 12> before = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    const auto days_of = [](int of) { return (of % 4 == 0 && of % 100 != 0) || of % 400 == 0 ? 366 : 365; };
    CalendarDay date;
    date.day_of_year = before[static_cast<std::size_t>(month - 1)] + day + (days_of(year) == 366 && month > 2 ? 1 : 0);
    const int last = year - 1;
    date.weekday = (last + last / 4 - last / 100 + last / 400 + date.day_of_year) % 7;  // 1 January of year 1 was a Monday
    const int thursday = date.day_of_year - date.days_since_monday() + 3;               // of this week; its year is the week's
    date.iso_year = thursday < 1 ? year - 1 : thursday > days_of(year) ? year + 1 : year;
    const int in_year = thursday < 1 ? thursday + days_of(year - 1) : thursday > days_of(year) ? thursday - days_of(year) : thursday;
    date.iso_week = (in_year + 6) / 7;
    return date;
  }
  int days_since_monday() const { return (weekday + 6) % 7; }
};

// The clock that templates see, as RenderOptions says.
inline std::tm Run::now() {
  std::tm now{};
  if (options_.now) {
    now = *options_.now;
    if (now.tm_mon < 0 || now.tm_mon > 11 || now.tm_mday < 1 || now.tm_mday > 31) fail("RenderOptions::now is no date");
    return now;
  }
  const std::time_t seconds = std::time(nullptr);
#ifdef _WIN32
  localtime_s(&now, &seconds);
#else
  localtime_r(&seconds, &now);
#endif
  return now;
}

// datetime.strftime in the C locale, of a time without zone.
inline std::string Run::strftime(const std::tm& time, std::string_view format) {
  constexpr std::array<const char*, 7> days = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
  constexpr std::array<const char*, 12> months = {"January", "February", "March",     "April",   "May",      "June",
                                                  "July",    "August",   "September", "October", "November", "December"};
  const int year = time.tm_year + 1900, month = time.tm_mon + 1, hour12 = time.tm_hour % 12 == 0 ? 12 : time.tm_hour % 12;
  const CalendarDay date = CalendarDay::of(year, month, time.tm_mday);
  const std::string day_name = days[static_cast<std::size_t>(date.weekday)], month_name = months[static_cast<std::size_t>(month - 1)];

  std::string out;
  for (std::size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%' || at + 1 >= format.size()) {
      out += format[at];
      continue;
    }
    char type = format[++at], flag = '\0';
    if ((type == '-' || type == '_' || type == '0' || type == '^') && at + 1 < format.size()) flag = type, type = format[++at];
    const auto put = [&](int value, int digits, char fill = '0') {
      std::string text = std::to_string(value);
      if (flag == '_') fill = ' ';
      if (flag == '0') fill = '0';
      if (flag != '-')
        while (static_cast<int>(text.size()) < digits) text.insert(0, 1, fill);
      out += text;
    };
    const auto word = [&](const std::string& text) { out += flag == '^' ? upper(text) : text; };
    switch (type) {
      case 'a': word(day_name.substr(0, 3)); break;
      case 'A': word(day_name); break;
      case 'b': case 'h': word(month_name.substr(0, 3)); break;
      case 'B': word(month_name); break;
      case 'd': put(time.tm_mday, 2); break;
      case 'e': put(time.tm_mday, 2, ' '); break;
      case 'm': put(month, 2); break;
      case 'y': put(year % 100, 2); break;
      case 'Y': put(year, 1); break;
      case 'C': put(year / 100, 2); break;
      case 'H': put(time.tm_hour, 2); break;
      case 'k': put(time.tm_hour, 2, ' '); break;
      case 'I': put(hour12, 2); break;
      case 'l': put(hour12, 2, ' '); break;
      case 'M': put(time.tm_min, 2); break;
      case 'S': put(time.tm_sec, 2); break;
      case 'f': out += "000000"; break;
      case 'p': word(time.tm_hour < 12 ? "AM" : "PM"); break;
      case 'P': out += time.tm_hour < 12 ? "am" : "pm"; break;
      case 'j': put(date.day_of_year, 3); break;
      case 'w': put(date.weekday, 1); break;
      case 'u': put(date.weekday == 0 ? 7 : date.weekday, 1); break;
      case 'U': put((date.day_of_year + 6 - date.weekday) / 7, 2); break;
      case 'W': put((date.day_of_year + 6 - date.days_since_monday()) / 7, 2); break;
      case 'V': put(date.iso_week, 2); break;
      case 'G': put(date.iso_year, 1); break;
      case 'g': put(date.iso_year % 100, 2); break;
      case 'z': case 'Z': break;
      case 'c': out += strftime(time, "%a %b %e %H:%M:%S %Y"); break;
      case 'x': case 'D': out += strftime(time, "%m/%d/%y"); break;
      case 'X': case 'T': out += strftime(time, "%H:%M:%S"); break;
      case 'r': out += strftime(time, "%I:%M:%S %p"); break;
      case 'F': out += strftime(time, "%Y-%m-%d"); break;
      case 'R': out += strftime(time, "%H:%M"); break;
      case 'n': out += '\n'; break;
      case 't': out += '\t'; break;
      case '%': out += '%'; break;
      default: unsupported(std::string("strftime_now directive '%") + type + "'");
    }
  }
  return out;
}

}  // namespace detail::jinja
}  // namespace chiasm::inline CHIASM_ABI
