//! A forked, traced child that goes one instruction at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// A child that stands still; killed when dropped.
pub(super) struct Child {
    pid: Pid,
    is_dead: bool,
}

/// Where a step led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// To the next instruction.
    On,
    /// To the mark that ends the region.
    ToTheMark,
}

/// Called by a child at both ends of the region that is stepped.
pub(super) fn mark() {
    raise(Signal::SIGSTOP).unwrap();
}

/// Tracer and traced take turns, so that two processors only cost wake-ups between them.
pub(super) fn stay_on_one_processor() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap()).unwrap()).unwrap();
    sched_setaffinity(this, &one).unwrap();
}

impl Child {
    /// Forks; the child runs `scene` up to its first [`mark`].
    pub(super) fn start(scene: impl FnOnce()) -> Child {
        #[expect(unsafe_code, reason = "fork has no safe interface; this process has one thread, which forks")]
        // SAFETY: no other thread holds a lock that the child could want.
        let forked = unsafe { fork() }.unwrap();
        match forked {
            ForkResult::Parent { child } => {
                let child = Child { pid: child, is_dead: false };
                assert_eq!(child.wait(), Went::ToTheMark);
                ptrace::setoptions(child.pid, ptrace::Options::PTRACE_O_EXITKILL).unwrap();
                child
            }
            ForkResult::Child => {
                ptrace::traceme().unwrap();
                let _ = catch_unwind(AssertUnwindSafe(scene));
                // A scene ends at a mark and never returns from there; this one has failed.
                std::process::abort()
            }
        }
    }

    /// One instruction.
    pub(super) fn step(&mut self) -> Went {
        ptrace::step(self.pid, None).unwrap();
        self.wait()
    }

    /// To the next entry into or exit from a system call.
    pub(super) fn step_to_system_call(&mut self) -> Went {
        ptrace::syscall(self.pid, None).unwrap();
        self.wait()
    }

    /// Address of the next instruction.
    pub(super) fn address(&self) -> u64 {
        ptrace::getregs(self.pid).unwrap().rip
    }

    /// At full speed to the instruction at that address, when it comes by after so many passes.
    pub(super) fn run_to(&mut self, address: u64, passes: u32) -> Went {
        let mut went = Went::On;
        for pass in 0..=passes {
            if pass > 0 {
                went = self.step();
            }
            if went == Went::On && self.address() != address {
                went = self.run_to_breakpoint(address);
            }
            if went == Went::ToTheMark {
                break;
            }
        }
        went
    }

    fn run_to_breakpoint(&self, address: u64) -> Went {
        const BREAKPOINT: i64 = 0xCC;
        let at = address as ptrace::AddressType;
        let code = ptrace::read(self.pid, at).unwrap();
        ptrace::write(self.pid, at, (code & !0xFF) | BREAKPOINT).unwrap();
        ptrace::cont(self.pid, None).unwrap();
        let went = self.wait();
        ptrace::write(self.pid, at, code).unwrap();
        if went == Went::On {
            let mut registers = ptrace::getregs(self.pid).unwrap();
            assert_eq!(registers.rip, address + 1, "not at the breakpoint");
            registers.rip = address;
            ptrace::setregs(self.pid, registers).unwrap();
        }
        went
    }

    /// Whether the next instruction is a system call.
    pub(super) fn is_at_system_call(&self) -> bool {
        const SYSCALL: [u8; 2] = [0x0F, 0x05];
        let code = ptrace::read(self.pid, self.address() as ptrace::AddressType).unwrap();
        code.to_le_bytes().starts_with(&SYSCALL)
    }

    /// SIGKILL; returns when nothing of the child is left.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if !self.is_dead {
            self.is_dead = true;
            nix::sys::signal::kill(self.pid, Signal::SIGKILL).unwrap();
            while !matches!(waitpid(self.pid, None), Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) | Err(_)) {}
        }
    }

    fn wait(&self) -> Went {
        match waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Went::On,
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Went::ToTheMark,
            other => panic!("the child did what no scene does: {other:?}"),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}
