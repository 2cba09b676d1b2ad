//! Fabrics commands: Connect, Property Get and Set, Disconnect (NVMe Base 6).

use ferroce_wire::fabrics::{
    ConnectCmd, ConnectData, ConnectRefusal, ConnectResponse, Nqn, PropertyGet, PropertySet,
};
use ferroce_wire::opcode::FabricsType;
use ferroce_wire::sqe::Sqe;
use ferroce_wire::status::Status;

use crate::admin::Answer;
use crate::command::NONE;
use crate::controller::{Controller, Kind};
use crate::limits;
use crate::mail::{Admission, ConnectRequest, Refused, ToControl};
use crate::port::ConnId;
use crate::property::{self, Effect};
use crate::queue::{QueueRef, State};
use crate::queues::Queues;
use crate::refusal::Refusal;

/// This FCTYPE, which stands where other commands have NSID, is of no command for this queue (Base 6, Fabrics Command Types).
const NOT_HERE: Refusal = Refusal::field(std::mem::offset_of!(Sqe, nsid));

impl Queues {
    pub(crate) fn fabrics_command(&mut self, slot: u32, data: Option<&[u8]>) -> Answer {
        let sqe = self.slab[slot].sqe;
        let queue = self.queue(slot);
        let state = queue.state;
        match (sqe.fabrics_type(), state) {
            (Some(FabricsType::CONNECT), State::Fresh | State::Connecting) => {
                self.connect(slot, &sqe, data)
            }
            (_, State::Fresh | State::Connecting) | (Some(FabricsType::CONNECT), _) => {
                Answer::Refused(Refusal::of(Status::COMMAND_SEQUENCE_ERROR.dnr()))
            }
            (Some(FabricsType::PROPERTY_GET), _) => self.property_get(slot, &sqe),
            (Some(FabricsType::PROPERTY_SET), _) => self.property_set(slot, &sqe),
            (Some(FabricsType::DISCONNECT), _) => self.disconnect(slot, &sqe),
            _ => Answer::Refused(NOT_HERE),
        }
    }

    /// Checks what needs no knowledge of other queues; the rest is the control thread's.
    fn connect(&mut self, slot: u32, sqe: &Sqe, data: Option<&[u8]>) -> Answer {
        let at = self.slab[slot].queue;
        let command = *ConnectCmd::of(sqe);
        let refused = |what| Answer::Refused(Refusal::connect(what));
        let queue = &mut self.queues[at as usize];
        if data.is_none() {
            if queue.state == State::Connecting {
                // A second Connect while the first is being thought about.
                return Answer::Refused(Refusal::of(Status::COMMAND_SEQUENCE_ERROR.dnr()));
            }
            if command.recfmt.get() != 0 {
                let status = Status::CONNECT_INCOMPATIBLE_FORMAT.dnr();
                return Answer::Refused(Refusal::of(status));
            }
            let depth_max = match command.qid.get() {
                0 => limits::ADMIN_DEPTH_MAX,
                _ => limits::IO_DEPTH_MAX,
            };
            // A queue has at least two entries (Base 3.3.3.1), and the size is zero-based.
            if command.sqsize_z.get() == 0 || command.entries() > u32::from(depth_max) {
                return refused(ConnectRefusal::SQSIZE);
            }
            if command.qid.get() > limits::IO_QUEUES_MAX {
                return refused(ConnectRefusal::QID);
            }
            queue.state = State::Connecting;
            return Answer::Wants(size_of::<ConnectData>() as u32);
        }
        let data: ConnectData = bytemuck::pod_read_unaligned(data.expect("it was asked for"));
        let Ok(subnqn) = Nqn::from_field(&data.subnqn) else {
            return self.refuse_connect(at, ConnectRefusal::SUBNQN);
        };
        // A host owes a name (Base 4.7), but `spdk_nvme_perf` has none unless it is told one, and others' targets let it in. Its
        // name is made of its HOSTID then, also where hosts are named that may connect.
        let hostnqn = match data.hostnqn[0] {
            0 => Ok(Nqn::of_uuid(&data.hostid)),
            _ => Nqn::from_field(&data.hostnqn),
        };
        let Ok(hostnqn) = hostnqn else {
            return self.refuse_connect(at, ConnectRefusal::HOSTNQN);
        };
        let request = Box::new(ConnectRequest {
            transport: self.queues[at as usize].transport,
            local: self.queues[at as usize].local,
            peer: self.queues[at as usize].peer,
            qid: command.qid.get(),
            depth: command.entries(),
            cntlid: data.cntlid.get(),
            hostid: data.hostid,
            subnqn,
            hostnqn,
        });
        // The control thread answers, if only to say that it has waited long enough.
        self.queues[at as usize].deadline = self.now.plus_ms(2 * limits::STALE_WAIT_MS);
        let (core, queue) = (self.config.index, self.name(at));
        self.mail(ToControl::Connect {
            core,
            queue,
            request,
        });
        Answer::Held
    }

    /// If the command is a Connect whose data cannot be had, the host may try another one. What it is told: never
    /// Invalid Field (Base 6.3).
    pub(crate) fn connect_failed(&mut self, slot: u32, refusal: Refusal) -> Refusal {
        if self.slab[slot].sqe.fabrics_type() != Some(FabricsType::CONNECT) {
            return refusal;
        }
        let queue = self.queue(slot);
        if queue.state == State::Connecting {
            queue.state = State::Fresh;
        }
        if refusal.status == Status::INVALID_FIELD.dnr() {
            Refusal::connect(ConnectRefusal::Sqe(refusal.location))
        } else {
            refusal
        }
    }

    fn refuse_connect(&mut self, at: u32, what: ConnectRefusal) -> Answer {
        let queue = &mut self.queues[at as usize];
        queue.state = State::Fresh;
        let field = match what {
            ConnectRefusal::SUBNQN => "SUBNQN",
            _ => "HOSTNQN",
        };
        log::info!("{}: may not connect: its {field} is no NQN", queue.peer);
        Answer::Refused(Refusal::connect(what))
    }

    /// The connection of a queue whose host was admitted.
    pub(crate) fn admitted(&self, name: QueueRef) -> Option<(usize, ConnId)> {
        let queue = &self.queues[self.find(name)? as usize];
        queue.admitted.then_some((queue.fabric, queue.conn))
    }

    /// The control thread has decided.
    pub(crate) fn on_admit(&mut self, name: QueueRef, admission: Result<Admission, Refused>) {
        let waiting = self
            .find(name)
            .filter(|&at| self.queues[at as usize].state == State::Connecting);
        let Some(at) = waiting else {
            // The connection died meanwhile. The control thread counts the queue as connected.
            if let Ok(admission) = admission {
                let (cntlid, qid) = (admission.who.cntlid, admission.qid);
                self.gone_before_it_began(cntlid, qid);
            }
            return;
        };
        let slot = self.queues[at as usize].commands;
        assert!(slot != NONE, "Connect waits for this answer");
        let slot = self.connect_command(slot);
        match admission {
            Ok(admission) => self.admit(at, slot, admission),
            Err(refused) => {
                self.queues[at as usize].state = State::Fresh;
                let location = Refusal::NOWHERE;
                let Refused { status, dw0 } = refused;
                self.refuse(
                    slot,
                    Refusal {
                        status,
                        location,
                        lba: 0,
                        dw0,
                    },
                );
            }
        }
    }

    /// Of the commands of a connecting queue, the Connect that is being thought about: others may
    /// have come after it, only to be refused.
    fn connect_command(&self, first: u32) -> u32 {
        let mut slot = first;
        loop {
            let command = &self.slab[slot];
            let connect = command.sqe.fabrics_type() == Some(FabricsType::CONNECT);
            if connect && command.answer.is_none() {
                return slot;
            }
            slot = command.after;
            assert!(slot != NONE, "Connect waits for this answer");
        }
    }

    fn gone_before_it_began(&mut self, cntlid: u16, qid: u16) {
        if qid == 0 {
            self.mail(ToControl::ControllerEnding { cntlid });
        }
        self.mail(ToControl::QueueEnded { cntlid, qid });
    }

    fn admit(&mut self, at: u32, slot: u32, admission: Admission) {
        let command = *ConnectCmd::of(&self.slab[slot].sqe);
        let cntlid = admission.who.cntlid;
        let queue = &mut self.queues[at as usize];
        queue.qid = admission.qid;
        queue.depth = command.entries() as u16;
        queue.who = Some(admission.who.clone());
        if self.is_stopping() || !self.promise(at) {
            let queue = &mut self.queues[at as usize];
            log::warn!(
                "{}: a queue of {} entries was refused: all {} command slots of this core are \
                 promised (raise `limits.commands`)",
                queue.peer,
                queue.depth,
                self.config.commands
            );
            (queue.who, queue.state, queue.depth) = (None, State::Fresh, 0);
            self.gone_before_it_began(cntlid, admission.qid);
            self.refuse(slot, Refusal::of(Status::CONNECT_CONTROLLER_BUSY));
            return;
        }
        let queue = &mut self.queues[at as usize];
        queue.admitted = true;
        queue.state = State::Live;
        // Connect itself is the first entry.
        queue.sqhd = 0;
        queue.flow_control = !command.no_sq_flow_control();
        self.config.counters.connects.add(1);
        self.config.counters.queues.add(1);
        let who = admission.who;
        who.saw(self.config.index, self.now);
        if who.kind == Kind::Io {
            queue.subsystem = self.table.subsystems.get(&who.subnqn).cloned();
        }
        if admission.qid != 0 {
            who.note_io_queue();
            let qid = admission.qid;
            self.mail(ToControl::QueueBegan { cntlid, qid });
        }
        if admission.qid == 0 {
            self.config.counters.admin_queues.add(1);
            let controller = Controller::new(who, at, command.kato_ms.get());
            let free = self.controllers.iter().position(Option::is_none);
            let index = free.unwrap_or_else(|| {
                self.controllers.push(None);
                self.controllers.len() - 1
            });
            self.controllers[index] = Some(controller);
            self.queues[at as usize].controller = Some(index as u32);
        }
        let dw0 = ConnectResponse { cntlid, authreq: 0 }.dw0();
        self.complete(slot, Status::SUCCESS, u64::from(dw0));
    }

    fn property_get(&mut self, slot: u32, sqe: &Sqe) -> Answer {
        let Some(controller) = self.controller_of(slot) else {
            return Answer::Refused(NOT_HERE);
        };
        let get = *PropertyGet::of(sqe);
        match property::get(controller, get.ofst.get(), get.attrib) {
            Ok(value) => Answer::Wide(value),
            Err(status) => Answer::Refused(Refusal::of(status)),
        }
    }

    fn property_set(&mut self, slot: u32, sqe: &Sqe) -> Answer {
        let Some(controller) = self.controller_of(slot) else {
            return Answer::Refused(NOT_HERE);
        };
        let set = *PropertySet::of(sqe);
        let effect = property::set(controller, set.ofst.get(), set.attrib, set.value.get());
        match effect {
            Ok(Effect::Enabled) => {
                controller.who.set_ready(controller.serves());
                Answer::Done(0)
            }
            Ok(Effect::Reset) => {
                controller.who.set_ready(false);
                let cntlid = controller.who.cntlid;
                for aer in std::mem::take(&mut controller.aers) {
                    self.complete(aer, Status::ABORT_REQUESTED, 0);
                }
                self.mail(ToControl::Resetting { cntlid });
                Answer::Done(0)
            }
            Ok(Effect::Shutdown) => {
                controller.who.set_ready(false);
                let cntlid = controller.who.cntlid;
                self.mail(ToControl::Resetting { cntlid });
                Answer::Done(0)
            }
            Ok(Effect::None) => Answer::Done(0),
            Err(status) => Answer::Refused(Refusal::of(status)),
        }
    }

    fn controller_of(&mut self, slot: u32) -> Option<&mut Controller> {
        let index = self.queue(slot).controller?;
        self.controllers[index as usize].as_mut()
    }

    /// All I/O queues of a controller in reset or shutdown are gone.
    pub(crate) fn on_reset_done(&mut self, cntlid: u16) {
        let mut controllers = self.controllers.iter_mut().flatten();
        if let Some(controller) = controllers.find(|controller| controller.who.cntlid == cntlid) {
            property::reset_done(controller);
            controller.who.set_ready(controller.serves());
        }
    }

    /// Disconnect deletes an I/O queue. What it still has in flight is answered first: nothing may be done for it
    /// once the host has seen the completion (Base 6.4).
    fn disconnect(&mut self, slot: u32, sqe: &Sqe) -> Answer {
        if self.queue(slot).qid == 0 {
            return Answer::Refused(Refusal::of(Status::DISCONNECT_INVALID_QUEUE_TYPE.dnr()));
        }
        // RECFMT stands where Connect has its own.
        if ConnectCmd::of(sqe).recfmt.get() != 0 {
            return Answer::Refused(Refusal::of(Status::CONNECT_INCOMPATIBLE_FORMAT.dnr()));
        }
        let queue = self.queue(slot);
        queue.state = State::Closing;
        if queue.in_flight > 1 {
            queue.disconnect = slot;
            return Answer::Held;
        }
        self.say_ending(self.slab[slot].queue);
        Answer::Done(0)
    }
}
