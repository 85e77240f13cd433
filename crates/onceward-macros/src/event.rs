//! `#[derive(Event)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, Error, Ident, LitStr, Member, Result, meta::ParseNestedMeta};

/// What `#[event(…)]` says.
#[derive(Default)]
struct Said {
    message_type: Option<LitStr>,
    id: Option<Member>,
    aggregate: Option<LitStr>,
    key: Option<Key>,
    kind: Option<TokenStream>,
}

enum Key {
    Field(Member),
    None,
}

impl Said {
    fn read(input: &DeriveInput) -> Result<Self> {
        let mut said = Self::default();
        for attribute in &input.attrs {
            if attribute.path().is_ident("event") {
                attribute.parse_nested_meta(|meta| said.take(&meta))?;
            }
        }
        Ok(said)
    }

    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        let name = meta.path.get_ident().map(Ident::to_string);
        match name.as_deref() {
            Some("type") => set(meta, &mut self.message_type, meta.value()?.parse()?),
            Some("aggregate") => set(meta, &mut self.aggregate, meta.value()?.parse()?),
            Some("id") => set(meta, &mut self.id, meta.value()?.parse()?),
            Some("key") => set(meta, &mut self.key, key(meta.value()?.parse()?)),
            Some("kind") => set(meta, &mut self.kind, kind(&meta.value()?.parse()?)?),
            _ => Err(meta.error("unknown; there are type, id, aggregate, key and kind")),
        }
    }
}

fn set<T>(meta: &ParseNestedMeta<'_>, place: &mut Option<T>, value: T) -> Result<()> {
    match place.replace(value) {
        Some(_) => Err(meta.error("said twice")),
        None => Ok(()),
    }
}

fn key(member: Member) -> Key {
    match &member {
        Member::Named(name) if name == "none" => Key::None,
        _ => Key::Field(member),
    }
}

fn kind(name: &Ident) -> Result<TokenStream> {
    let variant = match name.to_string().as_str() {
        "event" => quote!(Event),
        "command" => quote!(Command),
        "reply" => quote!(Reply),
        _ => return Err(Error::new(name.span(), "must be event, command or reply")),
    };
    Ok(quote!(::onceward::MessageKind::#variant))
}

/// The aggregate of `order.placed.v1` is an `order`.
fn default_aggregate(message_type: &LitStr) -> LitStr {
    let text = message_type.value();
    let first = text.split('.').next().unwrap_or_default();
    LitStr::new(first, message_type.span())
}

pub(crate) fn implement(input: &DeriveInput) -> Result<TokenStream> {
    let said = Said::read(input)?;
    let missing = |what: &str| {
        let help = "#[event(type = \"order.placed.v1\", id = order_id)]";
        Error::new(input.ident.span(), format!("{what}: {help}"))
    };
    let message_type = said
        .message_type
        .ok_or_else(|| missing("the message type is missing"))?;
    if message_type.value().is_empty() {
        return Err(Error::new(message_type.span(), "the message type is empty"));
    }
    let id = said
        .id
        .ok_or_else(|| missing("the field with the aggregate's id is missing"))?;
    let aggregate = said
        .aggregate
        .unwrap_or_else(|| default_aggregate(&message_type));
    let kind = said
        .kind
        .unwrap_or_else(|| quote!(::onceward::MessageKind::Event));
    // Without a key of its own the trait's default counts: the id.
    let key = said.key.map(|key| {
        let value = match key {
            Key::Field(field) => {
                quote!(::core::option::Option::Some(::std::string::ToString::to_string(&self.#field)))
            }
            Key::None => quote!(::core::option::Option::None),
        };
        quote! {
            fn message_key(&self) -> ::core::option::Option<::std::string::String> { #value }
        }
    });
    let name = &input.ident;
    let (generics, arguments, bounds) = input.generics.split_for_impl();
    Ok(quote! {
        impl #generics ::onceward::Event for #name #arguments #bounds {
            const TYPE: &'static str = #message_type;
            const KIND: ::onceward::MessageKind = #kind;
            const AGGREGATE_TYPE: &'static str = #aggregate;
            fn aggregate_id(&self) -> ::std::string::String {
                ::std::string::ToString::to_string(&self.#id)
            }
            #key
        }
    })
}
