/*
 * The guest of qup's accelerator probe: the last 512 bytes of a 64 KiB PC firmware.
 *
 * A computer may offer /dev/kvm and still not run a 64-bit guest: nested virtualisation that
 * is switched off or broken lets firmware run and hangs every kernel. So this guest does what
 * a kernel does first. It goes from the reset vector through real and protected mode to long
 * mode with page tables of its own (Intel SDM 3A, 10.8.5 "Initializing IA-32e Mode"), works on
 * 256 KiB of memory for a while, checks the result, and says so to isa-debug-exit, which ends
 * QEMU with the exit code (DONE << 1) | 1. There is no interrupt table: whatever goes wrong is
 * a triple fault, which ends QEMU (-no-reboot) with another code, or a hang.
 *
 * To assemble:
 *   as --64 -o probe.o probe.S
 *   ld -m elf_x86_64 -Ttext=0xffe00 --oformat=binary -e start -o probe.bin probe.o
 */

        .set    DONE, 0x2a              /* QEMU's exit code becomes 85 */
        .set    EXIT_PORT, 0xf4
        .set    SEGMENT, 0xf0000        /* where real mode sees the image: f000:0000 */

        .set    PML4, 0x1000            /* page tables, in low memory */
        .set    PDPT, 0x2000
        .set    PD, 0x3000
        .set    AREA, 0x10000           /* the memory to work on */
        .set    AREA_WORDS, 0x8000      /* of 8 bytes: 256 KiB */
        .set    ROUNDS, 150000          /* writes of either pass */

        .set    MSR_EFER, 0xc0000080
        .set    EFER_LME, 0x100
        .set    CR4_PAE, 0x20
        .set    CR0_PG_PE, 0x80000001
        .set    PRESENT_WRITABLE, 3
        .set    LARGE, 0x80

        .text
        .globl  start

        .code16
start:
        cli
        cld
        lgdtl   %cs:(gdt_register - SEGMENT)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $0x08, $protected

        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss

        movl    $PML4, %edi             /* three empty tables ... */
        xorl    %eax, %eax
        movl    $(3 * 4096 / 4), %ecx
        rep stosl
        movl    $(PDPT | PRESENT_WRITABLE), PML4
        movl    $(PD | PRESENT_WRITABLE), PDPT
        movl    $(PRESENT_WRITABLE | LARGE), PD  /* ... that map 0 to 2 MiB onto itself */

        movl    $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    $CR0_PG_PE, %eax
        movl    %eax, %cr0
        ljmpl   $0x18, $long_mode

        .code64
long_mode:
        movl    $AREA, %edi             /* clear the area */
        xorl    %eax, %eax
        movl    $AREA_WORDS, %ecx
        rep stosq

        movl    $2, %ebp                /* The same pseudo-random words are mixed in twice: */
pass:                                   /* what the first pass wrote, the second undoes. */
        movabsq $0x9e3779b97f4a7c15, %rax
        movl    $ROUNDS, %ecx
mix:
        movq    %rax, %rdx              /* xorshift64 (Marsaglia, 2003) */
        shlq    $13, %rdx
        xorq    %rdx, %rax
        movq    %rax, %rdx
        shrq    $7, %rdx
        xorq    %rdx, %rax
        movq    %rax, %rdx
        shlq    $17, %rdx
        xorq    %rdx, %rax
        movl    %eax, %ebx
        andl    $(AREA_WORDS - 1), %ebx
        xorq    %rax, AREA(,%rbx,8)
        decl    %ecx
        jnz     mix
        decl    %ebp
        jnz     pass

        movl    $AREA, %edi             /* so the area is empty again, */
        xorl    %eax, %eax
        movl    $AREA_WORDS, %ecx
        repe scasq
        jne     stop                    /* or memory does not keep what is written */
        movb    $DONE, %al
        outb    %al, $EXIT_PORT
stop:
        ud2                             /* a triple fault: better than to wait for the timeout */

        .balign 8, 0
gdt:
        .quad   0
        .quad   0x00cf9a000000ffff      /* 0x08: 32-bit code, all of memory */
        .quad   0x00cf92000000ffff      /* 0x10: data */
        .quad   0x00af9a000000ffff      /* 0x18: 64-bit code */
gdt_register:
        .word   gdt_register - gdt - 1
        .long   gdt

        .org    0x1f0                   /* the reset vector: f000:fff0 */
        .code16
        ljmpw   $0xf000, $(start - SEGMENT)
        .org    0x200
