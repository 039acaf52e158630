/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A boot sector that checks its own memory: for where KVM runs no Linux, but real mode.
 *
 * 448 KiB from 64 KiB on are 112 pages, which hold, by their number modulo 4:
 *
 *   0   zeros
 *   1   what depends on the page's number only: equal in all such guests
 *   2   the same in all pages, and something else every 8 rounds
 *   3   what depends on page, round and guest: written in every round
 *
 * A round checks each page, and then writes what the next round will expect where that differs.
 * On the serial line it says "ready" when all is filled, "round" after each, and "WRONG", and
 * nothing any more, when it finds something else. The word at offset 508 is the guest's own number.
 *
 * A page is a sequence of words: w, w * FACTOR + step, and so on. Registers: %si page, %es its
 * segment, %bp round, %ax word, %bx step.
 */
	.code16

	.set FIRST_SEGMENT, 0x1000
	.set N_PAGES, 112
	.set PAGE_WORDS, 2048
	.set FACTOR, 25173
	.set SERIAL_DATA, 0x3f8
	.set SERIAL_STATUS, 0x3fd

	.globl _start
_start:
	ljmp $0, $begin
begin:
	cli
	cld
	xorw %ax, %ax
	movw %ax, %ds
	movw %ax, %ss
	movw $0x7c00, %sp
	xorw %bp, %bp

	xorw %si, %si
fill_all:
	call fill
	incw %si
	cmpw $N_PAGES, %si
	jb fill_all
	movw $text_ready, %di
	call say

round:
	xorw %si, %si
check_one:
	call content
	pushw %ax
check_word:
	scasw
	jne wrong
	call next
	loop check_word
	incw %bp
	call content
	popw %dx
	cmpw %ax, %dx
	je check_next
	call fill
check_next:
	decw %bp
	incw %si
	cmpw $N_PAGES, %si
	jb check_one
	incw %bp
	movw $text_round, %di
	call say
	jmp round

wrong:
	movw $text_wrong, %di
	call say
stop:
	hlt
	jmp stop

/* Page %si as it should be in round %bp. */
fill:
	call content
fill_word:
	stosw
	call next
	loop fill_word
	ret

/* %ax and %bx for page %si in round %bp; %es:%di is its start, %cx its words. */
content:
	movw %si, %ax
	shlw $8, %ax
	addw $FIRST_SEGMENT, %ax
	movw %ax, %es
	xorw %di, %di
	movw $PAGE_WORDS, %cx
	xorw %bx, %bx
	movw %si, %ax
	andw $3, %ax
	jz content_done
	movw $13849, %bx
	decw %ax
	jz content_number
	decw %ax
	jz content_turn
	imulw $0x0161, %bp, %ax
	shlw $7, %ax
	addw %si, %ax
	xorw own, %ax
	ret
content_number:
	movw %si, %ax
	orw $0x4000, %ax
	ret
content_turn:
	movw %bp, %ax
	shrw $3, %ax
	orw $0x8000, %ax
content_done:
	ret

next:
	imulw $FACTOR, %ax, %ax
	addw %bx, %ax
	ret

/* The text at %di, to its NUL. */
say:
	movw $SERIAL_STATUS, %dx
	inb %dx, %al
	testb $0x20, %al
	jz say
	movb (%di), %al
	testb %al, %al
	jz say_done
	movw $SERIAL_DATA, %dx
	outb %al, %dx
	incw %di
	jmp say
say_done:
	ret

text_ready:
	.asciz "ready\n"
text_round:
	.asciz "round\n"
text_wrong:
	.asciz "WRONG\n"

	.org 508
own:
	.word 0
	.word 0xaa55
