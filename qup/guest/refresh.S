/*
 * What a guest that is saved as a template waits in, and what a restored one runs first.
 *
 * Two restored guests are twins: they have the same random pool and the clock of the moment
 * they were saved. No shell can help with either: writing to /dev/urandom changes nothing
 * until the kernel reseeds by itself, and `date` knows whole seconds. So this program reads
 * blocks of 72 bytes from its standard input, and for each it
 *
 *   - sets the clock (clock_settime(2)),
 *   - adds 48 bytes to the random pool (RNDADDENTROPY, random(4)),
 *   - has the kernel make new keys of the pool at once (RNDRESEEDCRNG, random(4)),
 *   - answers with a "=".
 *
 *      0  seconds since the epoch; 0 in the last block, -1 in a card's
 *      8  nanoseconds; in the last block the number of bytes that follow it
 *     16  struct rand_pool_info: 384 (bits), 48 (bytes), and the 48 bytes
 *
 * A card's block gives a network card another address, which takes a shell a program that takes
 * longer than everything here. If this was started with an argument, and the card of that name has
 * the address that it should have, it is done and answered with a "="; if not, with a "-".
 *
 *      8  the address that the card has: 6 bytes, and 2 that don't matter
 *     16  the one that it shall have
 *     24  struct ifreq: its name (netdevice(7))
 *
 * What follows the last block is written to descriptor 3. Exit code 1: something failed.
 *
 * To assemble (refresh.py adds the ELF header):
 *   as --64 -o refresh.o refresh.S
 *   ld -m elf_x86_64 -N -Ttext=0x400078 --oformat=binary -e start -o refresh.bin refresh.o
 */

        .set    READ, 0                 /* <asm/unistd_64.h> */
        .set    WRITE, 1
        .set    OPEN, 2
        .set    CLOSE, 3
        .set    IOCTL, 16
        .set    SOCKET, 41
        .set    EXIT, 60
        .set    CLOCK_SETTIME, 227
        .set    CLOCK_REALTIME, 0
        .set    O_WRONLY, 1
        .set    AF_INET, 2
        .set    SOCK_DGRAM, 2
        .set    SIOCGIFHWADDR, 0x8927
        .set    SIOCSIFHWADDR, 0x8924
        .set    RNDADDENTROPY, 0x40085203
        .set    RNDRESEEDCRNG, 0x5207

        .set    BLOCK, 72
        .set    POOL, 16
        .set    HAS, 8
        .set    SHALL, 16
        .set    CARD, 24
        .set    HARDWARE, CARD + 18     /* ifr_hwaddr.sa_data */
        .set    CHUNK, 4096

        .text
        .globl  start
start:
        mov     (%rsp), %r12            /* the number of arguments, with the program's name */
        sub     $CHUNK, %rsp            /* the block, and later the chunk, are at %rsp */
next:
        xor     %ebx, %ebx              /* bytes of the block that are here */
fill:
        mov     $READ, %eax
        xor     %edi, %edi
        lea     (%rsp,%rbx), %rsi
        mov     $BLOCK, %edx
        sub     %ebx, %edx
        syscall
        test    %rax, %rax
        jle     fail
        add     %eax, %ebx
        cmp     $BLOCK, %ebx
        jl      fill
        cmpq    $0, (%rsp)
        je      last
        jl      card

        mov     $CLOCK_SETTIME, %eax
        mov     $CLOCK_REALTIME, %edi
        mov     %rsp, %rsi
        syscall
        test    %rax, %rax
        jnz     fail
        mov     $OPEN, %eax
        lea     device(%rip), %rdi
        mov     $O_WRONLY, %esi
        syscall
        test    %rax, %rax
        js      fail
        mov     %eax, %ebx
        mov     $IOCTL, %eax
        mov     %ebx, %edi
        mov     $RNDADDENTROPY, %esi
        lea     POOL(%rsp), %rdx
        syscall
        test    %rax, %rax
        jnz     fail
        mov     $IOCTL, %eax
        mov     %ebx, %edi
        mov     $RNDRESEEDCRNG, %esi
        syscall
        test    %rax, %rax
        jnz     fail
        lea     yes(%rip), %r13
reply:
        mov     $CLOSE, %eax
        mov     %ebx, %edi
        syscall
        mov     $WRITE, %eax
        mov     $1, %edi
        mov     %r13, %rsi
        mov     $1, %edx
        syscall
        jmp     next

card:
        lea     no(%rip), %r13
        mov     $SOCKET, %eax
        mov     $AF_INET, %edi
        mov     $SOCK_DGRAM, %esi
        xor     %edx, %edx
        syscall
        mov     %eax, %ebx
        cmp     $2, %r12
        jl      reply
        mov     $IOCTL, %eax
        mov     %ebx, %edi
        mov     $SIOCGIFHWADDR, %esi
        lea     CARD(%rsp), %rdx
        syscall
        test    %rax, %rax
        jnz     reply
        mov     HAS(%rsp), %eax
        cmp     HARDWARE(%rsp), %eax
        jne     reply
        mov     HAS+4(%rsp), %ax
        cmp     HARDWARE+4(%rsp), %ax
        jne     reply
        mov     SHALL(%rsp), %eax
        mov     %eax, HARDWARE(%rsp)
        mov     SHALL+4(%rsp), %ax
        mov     %ax, HARDWARE+4(%rsp)
        mov     $IOCTL, %eax
        mov     $SIOCSIFHWADDR, %esi
        syscall
        test    %rax, %rax
        jnz     reply
        lea     yes(%rip), %r13
        jmp     reply

last:
        mov     8(%rsp), %rbx           /* bytes that are still to come */
copy:
        test    %rbx, %rbx
        jz      done
        mov     $READ, %eax
        xor     %edi, %edi
        mov     %rsp, %rsi
        mov     $CHUNK, %edx
        cmp     %rdx, %rbx
        cmovb   %rbx, %rdx
        syscall
        test    %rax, %rax
        jle     fail
        sub     %rax, %rbx
        mov     %rax, %rdx
        mov     $WRITE, %eax
        mov     $3, %edi
        mov     %rsp, %rsi
        syscall
        cmp     %rdx, %rax
        jne     fail
        jmp     copy

done:
        xor     %edi, %edi
        jmp     leave
fail:
        mov     $1, %edi
leave:
        mov     $EXIT, %eax
        syscall

device: .asciz  "/dev/urandom"
yes:    .ascii  "="
no:     .ascii  "-"
