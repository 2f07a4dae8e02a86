/* For the peer process, by LD_PRELOAD: CPUID leaves 0x1D and 0x1E where a virtual machine grants AMX but ends CPUID before them.
 * oneDNN, and so PyTorch, then configures palette 0, which has no tiles, and dies of SIGILL in its first bf16 product.
 * CPUID faults (arch_prctl(2), ARCH_CPUID), and the handler answers: palette 1 as in Intel's SDM, volume 1, 18.2. */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

static void allow_cpuid(long allowed) { syscall(SYS_arch_prctl, 0x1012 /* ARCH_SET_CPUID */, allowed); }

static void on_fault(int number, siginfo_t* info, void* context) {
  greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
  const unsigned char* at = (const unsigned char*)registers[REG_RIP];
  const unsigned leaf = (unsigned)registers[REG_RAX], part = (unsigned)registers[REG_RCX];
  unsigned a, b, c, d;
  if (info->si_code != SI_KERNEL || at[0] != 0x0f || at[1] != 0xa2) { /* a real fault: it comes again and ends the process */
    signal(number, SIG_DFL);
    return;
  }
  allow_cpuid(1);
  __cpuid_count(leaf, part, a, b, c, d);
  allow_cpuid(0);
  if (leaf == 0 && a < 0x1e) a = 0x1e;
  if (leaf == 0x1d && part == 0) a = 1; /* palettes */
  if (leaf == 0x1d && part == 1) a = 1024u << 16 | 8192, b = 8u << 16 | 64, c = 16; /* bytes a tile and of all, tiles and bytes a row, rows */
  if (leaf == 0x1e && part == 0) b = 64u << 8 | 16; /* columns in bytes, rows of the multiplier */
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  unsigned a, b, c, d;
  struct sigaction action = {0};
  __cpuid_count(7, 0, a, b, c, d);
  if ((d >> 24 & 1) == 0 || __get_cpuid_max(0, 0) >= 0x1d) return; /* no AMX, or nothing is missing */
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGSEGV, &action, 0);
  allow_cpuid(0);
}
